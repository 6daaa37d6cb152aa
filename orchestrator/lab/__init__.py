"""A cluster in a box: nodes with their own sshd and dockerd in namespaces of this machine. Everything but the
accelerators is real.
"""
