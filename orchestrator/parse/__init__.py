"""What ranks and launchers wrote → typed values, and a count of what was not read (docs/contract.md).

Pure; nothing here raises on any bytes.
"""

#: Stored with every result: another number means that the same files may read differently.
PARSER_VERSION = 1
