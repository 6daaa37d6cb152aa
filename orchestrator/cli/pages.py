"""What a page about a verb says beside its options: examples, exit codes, files. docs/cli.md, the man pages
and the end of `nx8 VERB --help` are made from it. Plain Python, since help loads no YAML.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIGURATION = (
    "cluster/<name>.yaml",
    "dockerfiles/<vendor>/",
    "cases/<case>/case.yaml and its configs/",
)
RUN = "results/runs/<run_id>/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One verb. `examples` are (command, what it does); `exits` are the codes it can end with beside 0, 70
    and those of a signal; `reads` and `writes` are files and folders, from the home folder on.
    """

    examples: tuple[tuple[str, str], ...]
    exits: tuple[int, ...] = (2,)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


PAGES: dict[str, Page] = {
    "init": Page(
        examples=(
            (
                "nx8 init --nodes 10.1.0.[11-14] --vendor mthreads --name NAME",
                "writes cluster/NAME.yaml",
            ),
            ("nx8 init --nodes node[01-04] --vendor nvidia --dry-run", "only print it"),
        ),
        exits=(2,),
        reads=("dockerfiles/<vendor>/vendor.yaml",),
        writes=("cluster/<name>.yaml, never over another",),
    ),
    "doctor": Page(
        examples=(
            ("nx8 doctor --cluster NAME", "every node, a table and what mends each problem"),
            ("nx8 doctor llama2_7b --cluster NAME --json", "for a program, with this case's data and image"),
            ("nx8 doctor --cluster NAME --deep", "then measure idle nodes: minutes"),
            ("nx8 doctor --cluster NAME --nagios", "one line for monitoring, exit 0 to 3"),
        ),
        exits=(2, 3, 6),
        reads=(*CONFIGURATION, "data_dir of the cluster: manifests"),
        writes=("with --deep: results/ceilings/<cluster>/<node>.json",),
    ),
    "run": Page(
        examples=(
            ("nx8 run llama2_7b --vendor cpu", "the proxy on this machine"),
            ("nx8 run --cluster NAME", "every case that has a config for that cluster"),
            ("nx8 run llama2_7b --cluster NAME --steps 200 --time-limit 3600", "longer, but an hour at most"),
            ("nx8 run llama2_7b --vendor cpu --dry-run", "only the plan"),
            ("nx8 run llama2_7b --vendor cpu --quiet --json", "for a program: one JSON document"),
        ),
        exits=(2, 3, 4, 5, 6, 124),
        reads=(*CONFIGURATION, "data_dir of the cluster: token files, prepared sets, weights"),
        writes=(RUN, "results/data/ (builtin texts only)", "work_dir and /tmp/nx8.lock of every node"),
    ),
    "plan": Page(
        examples=(
            ("nx8 plan llama2_7b --cluster NAME", "ranks, arithmetic, commands, in words"),
            ("nx8 plan llama2_7b --vendor cpu --set micro_batch_size=2", "with one key changed"),
            ("nx8 plan llama2_7b --vendor cpu --json", "plan.json itself"),
        ),
        exits=(2, 3),
        reads=(*CONFIGURATION, "data_dir of the cluster: manifests"),
    ),
    "bundle": Page(
        examples=(
            ("nx8 bundle", "the last run, secrets masked"),
            ("nx8 bundle RUN --anonymous --output for-support.tar.gz", "without names and addresses"),
        ),
        exits=(2,),
        reads=(RUN,),
        writes=("nx8-bundle-RUN.tar.gz in the working directory, or the FILE of --output",),
    ),
    "ps": Page(
        examples=(
            ("nx8 ps", "runs at work, and those whose controller died"),
            ("nx8 ps --cluster NAME", "what stands on the nodes: lock, containers, folders"),
        ),
        exits=(2, 3),
        reads=(RUN, "cluster/<name>.yaml, with --cluster"),
    ),
    "logs": Page(
        examples=(
            ("nx8 logs -f", "all that the last run says, until it has ended"),
            ("nx8 logs RUN --node node1 --stream launcher", "the launcher of one node"),
            ("nx8 logs RUN --rank 3 --stream stderr", "one stream of one rank"),
        ),
        exits=(2,),
        reads=(RUN,),
    ),
    "stop": Page(
        examples=(
            ("nx8 stop", "the last run, as Ctrl-C would"),
            ("nx8 stop RUN --kill", "with no grace for its ranks"),
        ),
        exits=(2, 3, 6),
        reads=(RUN, *CONFIGURATION),
        writes=(RUN,),
    ),
    "resume": Page(
        examples=(("nx8 resume RUN", "within the lease of its nodes"),),
        exits=(2, 3, 4, 6, 124),
        reads=(RUN, *CONFIGURATION),
        writes=(RUN, "work_dir and /tmp/nx8.lock of every node"),
    ),
    "clean": Page(
        examples=(
            ("nx8 clean --cluster NAME --dry-run", "what would go"),
            ("nx8 clean --cluster NAME", "containers, folders and locks of runs whose lease expired"),
        ),
        exits=(2, 3),
        reads=("cluster/<name>.yaml",),
        writes=("work_dir and /tmp/nx8.lock of every node",),
    ),
    "report": Page(
        examples=(
            ("nx8 report", "the last run, as its case publishes it"),
            ("nx8 report RUN --lang en --output report.md", "a run, in English, into a file"),
            ("nx8 report RUN --format prometheus", "for the node exporter's textfile collector"),
            (
                "nx8 report RUN --format svg --lang en --output curves.svg",
                "throughput and loss, as a picture",
            ),
        ),
        exits=(2,),
        reads=(f"{RUN}result.json", f"{RUN} (html and svg: its raw files too)"),
        writes=("the FILE of --output",),
    ),
    "open": Page(
        examples=(
            ("nx8 open", "the page of the last run"),
            ("nx8 open RUN --print", "only where it is"),
        ),
        reads=(RUN,),
        writes=(f"{RUN}report.html, where it is missing, or older than its result or an acceptance",),
    ),
    "site": Page(
        examples=(
            ("nx8 site", "an index and a page of each run"),
            ("nx8 site --output public --runs 90", "for a web server, the newest 90 runs"),
        ),
        reads=("results/runs/",),
        writes=("results/site/, or the DIR of --output",),
    ),
    "serve": Page(
        examples=(
            ("nx8 serve", "on http://127.0.0.1:8321/"),
            ("nx8 serve --port 0", "on a free port, which it prints"),
        ),
        reads=("results/runs/",),
    ),
    "parse": Page(
        examples=(
            ("nx8 parse", "the last run again, from its raw files"),
            ("nx8 parse --all", "every stored run: what moved, by how much and why"),
            ("nx8 parse rank0.log --set sequence_length=4096", "figures from any training log, not proven"),
            ("nx8 parse rank0.log --reference curve.csv --json", "held against a loss curve"),
        ),
        exits=(1, 2, 4),
        reads=(f"{RUN}cells/ and host.json", "the FILEs"),
        writes=(f"{RUN}reparse/<version>/result.json, when it differs",),
    ),
    "compare": Page(
        examples=(
            ("nx8 compare RUN latest", "two runs"),
            ("nx8 compare latest published:NAME/1", "the last run beside a published row"),
        ),
        exits=(2,),
        reads=(f"{RUN}result.json", "results/published/<name>.yaml"),
    ),
    "published import": Page(
        examples=(
            ("nx8 published import README.md --dry-run", "what is wrong with it; stores nothing"),
            ("nx8 published import README.md --strict", "store it; exit 1 when anything is wrong"),
        ),
        exits=(1, 2, 4),
        reads=("the FILEs", "dockerfiles/*/vendor.yaml, for peaks"),
        writes=("results/published/<name>.yaml",),
    ),
    "published list": Page(
        examples=(("nx8 published list", "every document, its rows and warnings"),),
        reads=("results/published/",),
    ),
    "published show": Page(
        examples=(("nx8 published show NAME --lang en", "as Markdown, with what is wrong below"),),
        reads=("results/published/<name>.yaml",),
    ),
    "list": Page(
        examples=(
            ("nx8 list cases", "their configs and descriptions"),
            ("nx8 list runs --json", "every stored run and its verdicts"),
        ),
        reads=(*CONFIGURATION, "results/runs/"),
    ),
    "data prepare": Page(
        examples=(
            ("nx8 data prepare corpus.jsonl --name web --tokenizer tokenizer.model", "text → web.tokens"),
            ("nx8 data prepare llava-finetune --from DIR --tokenizer tokenizer.model", "a published layout"),
            ("nx8 data prepare llava-proxy-finetune", "a small set, from nothing"),
        ),
        exits=(2, 4),
        reads=("TEXT, or the folder of --from",),
        writes=("results/data/<name>.tokens and its manifest", "results/data/<name>/ (a prepared set)"),
    ),
    "data check": Page(
        examples=(
            ("nx8 data check web", "hold web.tokens against its manifest"),
            ("nx8 data check web --json", "and print the manifest"),
        ),
        reads=("results/data/<name>.tokens or results/data/<name>/",),
    ),
    "data weights": Page(
        examples=(("nx8 data weights vicuna-7b-v1.5", "list the files of results/data/vicuna-7b-v1.5/"),),
        exits=(2, 4),
        reads=("results/data/<name>/",),
        writes=("results/data/<name>/nx8-weights.json",),
    ),
    "data push": Page(
        examples=(("nx8 data push web --cluster NAME", "web.tokens, to every node, checked there"),),
        exits=(2, 3),
        reads=("results/data/<name>.tokens and its manifest", "cluster/<name>.yaml"),
        writes=("data_dir of every node",),
    ),
    "vendors check": Page(
        examples=(
            ("nx8 vendors check", "every vendor"),
            ("nx8 vendors check NAME --quiet", "only what that one lacks"),
        ),
        reads=("dockerfiles/<vendor>/",),
    ),
    "vendors render": Page(
        examples=(
            ("nx8 vendors render mthreads", "its Dockerfile and its docker commands"),
            ("nx8 vendors render mthreads --cluster NAME", "with that cluster's mirrors and base image"),
        ),
        reads=CONFIGURATION,
    ),
    "hosts pin": Page(
        examples=(
            ("nx8 hosts pin --cluster NAME", "show the fingerprints, ask, store"),
            ("nx8 hosts pin --cluster NAME --yes", "without asking"),
        ),
        exits=(2, 3),
        reads=("cluster/<name>.yaml", "the SSH configuration"),
        writes=("cluster/<name>.known_hosts, or the file that the cluster names",),
    ),
    "hosts list": Page(
        examples=(("nx8 hosts list --cluster NAME", "what is pinned"),),
        reads=("cluster/<name>.yaml", "its known_hosts file"),
    ),
    "lab up": Page(
        examples=(
            ("nx8 lab up --vendor mthreads", "two nodes with two stand-in devices each"),
            ("nx8 lab up --vendor nvidia --nodes 4 --devices 8 --name big", "a larger one, of another name"),
        ),
        exits=(2, 3, 6),
        reads=("dockerfiles/<vendor>/", "constraints.txt"),
        writes=("cluster/<name>.yaml", "results/lab/"),
    ),
    "lab down": Page(
        examples=(("nx8 lab down", "end and remove all of it"),),
        exits=(2, 3, 6),
        reads=("results/lab/<name>/",),
        writes=("removes cluster/<name>.yaml and results/lab/<name>/",),
    ),
    "lab fault": Page(
        examples=(
            ("nx8 lab fault node2 link --for 30", "no packet passes for half a minute"),
            ("nx8 lab fault node2 freeze-rank --rank 3", "one rank makes no further step"),
            ("nx8 lab fault node2 heal", "undo every fault of the node"),
        ),
        exits=(2, 3),
        reads=("results/lab/<name>/lab.json",),
    ),
    "lab status": Page(
        examples=(("nx8 lab status", "which nodes run; exit 3 when one does not answer"),),
        exits=(2, 3),
        reads=("results/lab/<name>/",),
    ),
    "nightly run": Page(
        examples=(
            ("nx8 nightly run rehearsal --cluster local", "how a night goes, on this machine"),
            ("nx8 nightly run nightly --cluster NAME --quiet", "as a timer calls it"),
            ("nx8 nightly run nightly --cluster NAME --budget 6h --json", "six hours at most, for a program"),
        ),
        exits=(1, 2, 3, 4, 5, 6, 7),
        reads=("cases/suites/<suite>.yaml", *CONFIGURATION, "results/history.sqlite"),
        writes=(RUN, "results/nightly/<suite>/", "results/history.sqlite", "the DIR of --textfile"),
    ),
    "nightly install": Page(
        examples=(
            ("nx8 nightly install nightly --cluster NAME --dry-run", "print the systemd units"),
            ("nx8 nightly install nightly --cluster NAME --at 03:30", "write them"),
            ("nx8 nightly install nightly --cluster NAME --cron", "a file of cron instead"),
        ),
        reads=("cases/suites/<suite>.yaml", "cluster/<name>.yaml"),
        writes=("/etc/systemd/system, ~/.config/systemd/user, /etc/cron.d or the folder of --dir",),
    ),
    "history list": Page(
        examples=(
            ("nx8 history list", "cells of the newest runs; `nx8 history` is the same"),
            ("nx8 history list --case llama2_7b -n 50 --json", "of one case, for a program"),
        ),
        reads=("results/runs/", "results/history.sqlite"),
        writes=("results/history.sqlite",),
    ),
    "history rebuild": Page(
        examples=(("nx8 history rebuild", "history.sqlite anew, from the run folders"),),
        reads=("results/runs/", "results/archive/"),
        writes=("results/history.sqlite, and the old one as history.sqlite.old",),
    ),
    "trend": Page(
        examples=(
            ("nx8 trend", "each series with its band"),
            ("nx8 trend llama2_7b --metric loss -n 30", "another metric, thirty points"),
            ("nx8 trend --proxy", "also proxies and rehearsals, each of its own kind"),
        ),
        reads=("results/runs/", "results/history.sqlite"),
        writes=("results/history.sqlite",),
    ),
    "show": Page(
        examples=(
            ("nx8 show", "the last run beside its history"),
            ("nx8 show RUN --json", "every change since the last good run"),
        ),
        reads=("results/runs/", "results/history.sqlite"),
        writes=("results/history.sqlite",),
    ),
    "accept": Page(
        examples=(('nx8 accept RUN --reason "driver 470.161.03"', "a new baseline begins with it"),),
        exits=(2, 4),
        reads=(f"{RUN}result.json",),
        writes=(f"{RUN}accepted.json", "results/history.sqlite"),
    ),
    "gc": Page(
        examples=(
            ("nx8 gc --keep 90d --dry-run", "what would go, and why the rest stays"),
            ("nx8 gc --keep 30", "keep the newest thirty of every series"),
        ),
        exits=(2, 4),
        reads=("results/runs/",),
        writes=("results/archive/", "removes folders of results/runs/"),
    ),
    "explain": Page(
        examples=(
            ("nx8 explain", "every code in a line"),
            ("nx8 explain E312", "one of them: cause and fix"),
            ("nx8 explain E312 --lang zh", "in Chinese"),
        ),
    ),
    "completion": Page(
        examples=(
            ('eval "$(nx8 completion bash)"', "now, in this shell"),
            ("nx8 completion fish > ~/.config/fish/completions/nx8.fish", "once, for fish"),
        ),
    ),
}


def epilog(page: Page) -> str:
    """Below the options: each example and what it does. The first character keeps click from joining them."""
    width = max(len(command) for command, _ in page.examples)
    lines = ["\b", "Examples:"]
    together = width + max(len(does) for _, does in page.examples) <= 74
    for command, does in page.examples:
        lines += [f"  {command:<{width}}  {does}"] if together else [f"  {command}", f"      {does}"]
    return "\n".join(lines)
