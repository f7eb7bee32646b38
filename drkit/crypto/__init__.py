"""Keys, key slots and the sealed container of docs/format.md, sections 2 and 3. Knows no database and no target."""
