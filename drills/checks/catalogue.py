"""What a database and its cluster are made of besides rows: roles, extensions, sequences, large objects, settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drills.checks.asking import fill
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.session import Session

LARGE_OBJECTS = "pg_catalog.pg_largeobject"  # how `Reference.may_move` names them

_DATABASES = "select datname from pg_database where not datistemplate and datallowconn order by 1"
_ROLES = """
select concat_ws(' ', quote_ident(rolname), case when rolsuper then 'superuser' end,
                 case when rolcanlogin then 'login' end, case when rolcreaterole then 'createrole' end,
                 case when rolcreatedb then 'createdb' end, case when rolreplication then 'replication' end,
                 case when rolbypassrls then 'bypassrls' end, case when not rolinherit then 'noinherit' end)
from pg_roles where rolname !~ '^pg_'
union all
select format('%I in %I', m.rolname, g.rolname)
from pg_auth_members a join pg_roles m on m.oid = a.member join pg_roles g on g.oid = a.roleid
where m.rolname !~ '^pg_'
order by 1
"""
_EXTENSIONS = "select extname, extversion from pg_extension order by 1"
_LARGE_OBJECTS = "select count(*) from pg_largeobject_metadata"
# What is true of the data wherever it runs, and what lies in the catalogues. What postgresql.conf says is not looked
# at: a sandbox has a configuration of its own.
_SETTINGS = """
select name, case name when 'server_version_num' then (setting::int / 10000)::text else setting end
from pg_settings
where name in ('server_version_num', 'server_encoding', 'block_size', 'wal_block_size', 'wal_segment_size',
               'segment_size', 'data_checksums', 'integer_datetimes', 'max_identifier_length', 'max_index_keys')
union all
select format('database %I', datname), concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype)
from pg_database where not datistemplate
union all
select concat_ws(' ', 'alter', 'database ' || quote_ident(d.datname), 'role ' || quote_ident(r.rolname), 'set',
                 split_part(setting, '=', 1)), substr(setting, strpos(setting, '=') + 1)
from pg_db_role_setting s
left join pg_database d on d.oid = s.setdatabase
left join pg_roles r on r.oid = s.setrole
cross join unnest(s.setconfig) setting
where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
order by 1
"""
# The column is that of serial and identity, else one whose default takes from the sequence; whole numbers only.
# A sequence that cycles or counts down is told, but not compared with a column.
_SEQUENCES = """
select format('%I.%I', n.nspname, c.relname), fed.tab, fed.col
from pg_sequence s
join pg_class c on c.oid = s.seqrelid and c.relpersistence = 'p'
join pg_namespace n on n.oid = c.relnamespace
left join lateral (
    select format('%I.%I', tn.nspname, t.relname) as tab, quote_ident(a.attname) as col
    from (select refobjid as tab, refobjsubid as col, 1 as rank from pg_depend
          where classid = 'pg_class'::regclass and objid = s.seqrelid and refclassid = 'pg_class'::regclass
            and deptype in ('a', 'i') and refobjsubid > 0
          union all
          select e.adrelid, e.adnum, 2 from pg_depend d join pg_attrdef e on e.oid = d.objid
          where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
            and d.refobjid = s.seqrelid) found
    join pg_class t on t.oid = found.tab and t.relpersistence = 'p'
    join pg_namespace tn on tn.oid = t.relnamespace
    join pg_attribute a on a.attrelid = found.tab and a.attnum = found.col
    where a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) and s.seqincrement > 0 and not s.seqcycle
    order by found.rank, 1 limit 1
) fed on true
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 1
"""
_NEXT = "select last_value, is_called from {sequence}"
_HIGHEST = "select max({column}) from {table}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """As in `Reference`. behind: sequences whose next number is one that their column has, or is below it."""

    databases: tuple[str, ...]
    roles: tuple[str, ...]
    extensions: tuple[tuple[str, str], ...]
    sequences: Mapping[str, tuple[int, str]]
    behind: Mapping[str, str]
    large_objects: int
    settings: Mapping[str, str]


def read_catalogue(session: Session, token: CancelToken) -> Catalogue:
    """Read it as this session's transaction sees it; one that is in order costs an index look-up a sequence."""
    sequences: dict[str, tuple[int, str]] = {}
    behind: dict[str, str] = {}
    for name, table, column in session.rows(_SEQUENCES):
        token.check()
        ((last, called),) = session.rows(fill(_NEXT, sequence=name))
        feeds = f"{table}.{column}" if table else ""
        sequences[str(name)] = (int(last), feeds)
        if not table:
            continue
        ((highest,),) = session.rows(fill(_HIGHEST, column=column, table=table))
        if highest is not None and int(last) + bool(called) <= int(highest):
            behind[str(name)] = f"{name} is at {last}, but {feeds} goes up to {highest}"
    return Catalogue(
        databases=tuple(str(name) for (name,) in session.rows(_DATABASES)),
        roles=tuple(str(role) for (role,) in session.rows(_ROLES)),
        extensions=tuple((str(name), str(version)) for name, version in session.rows(_EXTENSIONS)),
        sequences=sequences,
        behind=behind,
        large_objects=int(session.rows(_LARGE_OBJECTS)[0][0]),
        settings={str(name): str(value) for name, value in session.rows(_SETTINGS)},
    )
