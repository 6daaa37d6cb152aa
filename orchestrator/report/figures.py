"""The lists of facts beside the table: who ran what, how fast, how steadily. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.messages import Language, say
from orchestrator.report.numbers import gib, per_cent, seconds, significant

if TYPE_CHECKING:
    from collections.abc import Mapping

Facts = tuple[tuple[str, str], ...]


def facts_of_run(result: Mapping[str, Any], language: Language) -> Facts:
    run, environment = result["run"], result["environment"]
    host = environment["host"] or {}
    facts = {
        "run_id": run["run_id"],
        "created": run["created_utc"],
        "cluster": run["cluster"],
        "vendor": run["vendor"],
        "host": ", ".join(
            str(host[key]) for key in ("hostname", "os", "kernel", "cpu_model") if host.get(key)
        ),
        "commit": _commit(environment["git"] or {}, language),
        "version": result["nx8_version"],
        "exit_code": result["exit_code"],
        "overhead": None if result["overhead_s"] is None else seconds(result["overhead_s"]),
    }
    return _labelled(facts, language)


def facts_of_cell(cell: Mapping[str, Any], language: Language) -> Facts:
    """What was planned and, for a proven cell, how it went. An unproven one shows no figure."""
    batch, steps, precision, data = cell["batch"], cell["steps"], cell["precision"], cell["data"]
    planned = {
        "batch": say(
            "fact.batch_text",
            language,
            lbs=batch["micro_batch_size"],
            gas=batch["gradient_accumulation_steps"],
            dp=batch["data_parallel_size"],
            gbs=batch["global_batch_size"],
            mpe=batch["sequence_length"],
        ),
        "steps": say(
            "fact.steps_text", language, warmup=steps["warmup_steps"], measured=steps["measured_steps"]
        ),
        "engine": say(
            "fact.engine_text",
            language,
            engine=cell["engine"],
            zero=cell["zero_stage"],
            recompute=cell["recompute"],
            attention=cell["attention"],
            dtype=precision["compute_dtype"],
            mechanism=precision["mechanism"],
        ),
        "data": say("fact.data_text", language, tokens=data["num_tokens"], sha256=data["sha256"]),
        "seed": cell["seed"],
        "config_hash": cell["config_hash"],
        "versions": _versions(cell),
    }
    return _labelled({**_figures(cell, language), **planned}, language)


def _figures(cell: Mapping[str, Any], language: Language) -> dict[str, str | None]:
    metrics = cell["metrics"]
    if metrics["tokens_per_second_per_device"]["value"] is None:
        return {}
    speed = metrics["tokens_per_second_per_device"]["details"]
    framework = metrics["memory_framework_peak_bytes"]["value"]
    none = say("none", language)
    return {
        "speed": say(
            "fact.speed_text",
            language,
            n=speed["n"],
            **{
                key: none if speed[key] is None else significant(speed[key])
                for key in ("median", "mean", "std", "mad", "min", "max")
            },
        ),
        "ci": say("fact.ci_none", language)
        if speed["ci95_low"] is None
        else say(
            "fact.ci_text",
            language,
            low=significant(speed["ci95_low"]),
            high=significant(speed["ci95_high"]),
        ),
        "step_time": " / ".join(seconds(metrics[f"step_time_p{n}_s"]["value"]) for n in (50, 95, 99)),
        "loss": " / ".join(
            none if metrics[name]["value"] is None else significant(metrics[name]["value"])
            for name in ("loss_first_fifth", "loss_last_fifth")
        ),
        "coverage": _share(metrics["window_coverage"]["value"]),
        "peak_memory": None if framework is None else f"{gib(framework)} GiB",
    }


def _share(value: float | None) -> str | None:
    return None if value is None else per_cent(value)


def _commit(git: Mapping[str, Any], language: Language) -> str:
    commit = git.get("commit")
    if commit is None:
        reason = git.get("reason")
        return f"{say('unknown', language)} ({reason})" if reason else say("unknown", language)
    return say("fact.commit_dirty", language, commit=commit) if git.get("dirty") else str(commit)


def _versions(cell: Mapping[str, Any]) -> str | None:
    """Of every rank that said hello, each distinct set once."""
    distinct: dict[str, None] = {}
    for rank in cell["ranks"]:
        found = ", ".join(f"{name} {version}" for name, version in rank["versions"].items() if version)
        if found:
            distinct[found] = None
    return "; ".join(distinct) or None


def _labelled(facts: Mapping[str, object], language: Language) -> Facts:
    """(label, text) of every fact there is."""
    return tuple(
        (say(f"fact.{key}", language), str(value)) for key, value in facts.items() if value not in (None, "")
    )
