"""provide.py [--index-url URL] [--find-links DIR] MODULE[=REQUIREMENT] ...: what the trainer needs, and only
what the base image lacks.

Runs once, while an image is built. A module is looked for, never imported: some need a driver to be imported.
Without a REQUIREMENT the base image has to have the module. Standard library, Python 3.6 or newer.
"""

import argparse
import importlib.util
import subprocess
import sys


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--index-url")
    arguments.add_argument("--trusted-host")
    arguments.add_argument("--find-links")
    arguments.add_argument("modules", nargs="+")
    given = arguments.parse_args()
    wanted = [one.partition("=")[::2] for one in given.modules]
    missing = [(module, requirement) for module, requirement in wanted if not is_there(module)]
    hopeless = [module for module, requirement in missing if not requirement]
    if hopeless:
        return f"the base image lacks {', '.join(hopeless)}, which only the vendor has"
    if missing:
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check"]
        command += ["--index-url=" + given.index_url] if given.index_url else []
        command += ["--trusted-host=" + given.trusted_host] if given.trusted_host else []
        command += ["--no-index", "--find-links=" + given.find_links] if given.find_links else []
        code = subprocess.call(command + [requirement for _, requirement in missing])
        if code:
            return code
    for module, _ in wanted:
        sys.stdout.write(f"{module}: {'installed now' if module in dict(missing) else 'in the base image'}\n")
    return 0


def is_there(module):
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
