"""PostgreSQL 13 to 18.

lsn, wal, timeline        positions, file names, segment headers, history and paths
version, control          facts by major, pg_control
files, walk, page         what a backup holds, and whether its pages are whole
session                   facts, backup start and stop, WAL switch, restore points
stream, records           records in WAL: where recovery can stop
recovery, backup_label, pg_manifest    what a restore writes and reads
programs, phases, instance             a server on this machine, followed through recovery
"""
