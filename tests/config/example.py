"""A configuration with a bit of everything, as a user would write it."""

TEXT = """
[cluster.orders]
connection = "service=orders"
data_dir   = "/var/lib/postgresql/18/main"
site       = "fra"

[cluster.orders.objectives]
rpo = "60s"
rto = "30m"
max_backup_age = "26h"

[target.local]
url    = "file:///backup/orders"
site   = "fra"
medium = "disk"

[target.vault-2]
url       = "s3://orders-vault/prod"
endpoint  = "https://s3.dub.example"
site      = "dub"
medium    = "object"
immutable = "compliance"

[copies]
rule    = "3-2-1-1-0"
wal_ack = 1

[retention]
timezone    = "Europe/Berlin"
pitr_window = "14d"
monthly = "12mo"

[[schedule]]
job  = "drill"
cron = "0 9 1 * *"
scenario = "region-loss"
deny_sites = ["fra"]

[keys]
file = "/etc/drkit/master.key"
"""
