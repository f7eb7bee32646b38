"""From bytes of files to sealed packs and maps on several targets: read, digest, compare, compress, seal, fan out."""
