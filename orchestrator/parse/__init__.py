"""What ranks and launchers wrote → typed values, and a count of what was not read (docs/contract.md).

Pure; nothing here raises on any bytes.
"""

#: Stored with every result: another number means that the same files may read differently.
PARSER_VERSION = 4
#: What each version reads otherwise than the one before it: said where a stored figure moves.
PARSER_CHANGES = {
    1: "the first",
    2: "a probe's memory counts only inside the measured window, and only if the probe ended by itself",
    3: "whoever did not arrive is named where a cell hung; a rank's exit long after its end record disproves",
    4: "an external program's typical step is held against our clock, and its log has to count NaN and "
    "skipped iterations; ranks that share out a model say how chunks, positions and optimizer are",
}
