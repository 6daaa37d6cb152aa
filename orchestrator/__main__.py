"""`python -m orchestrator` is `nx8`."""

from orchestrator.cli.main import main

main()
