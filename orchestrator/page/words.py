"""The page's own words in Chinese and English, by key; the reports' are in messages/."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.messages import Message

WORDS: dict[str, Message] = {
    "nav.table": Message("性能表", "Table"),
    "nav.curves": Message("曲线", "Curves"),
    "nav.trend": Message("趋势", "Trend"),
    "nav.heat": Message("设备", "Devices"),
    "nav.compare": Message("对比", "Comparison"),
    "nav.environment": Message("环境", "Environment"),
    "nav.warnings": Message("警告", "Warnings"),
    "nav.provenance": Message("出处", "Provenance"),
    "nav": Message("本页目录", "On this page"),
    "switch.language": Message("语言", "Language"),
    "switch.theme": Message("配色", "Colours"),
    "switch.auto": Message("自动", "Auto"),
    "switch.light": Message("浅色", "Light"),
    "switch.dark": Message("深色", "Dark"),
    "skip": Message("跳到正文", "Skip to the report"),
    # 1. The verdict in one sentence.
    "banner.measured": Message("已测得", "Measured"),
    "banner.proxy": Message("链路已验证", "Path proven"),
    "banner.warning": Message("已测得，有警告", "Measured, with warnings"),
    "banner.suspect": Message("可疑", "Suspect"),
    "banner.regression": Message("性能退化", "Regression"),
    "banner.improvement": Message("性能提升", "Improvement"),
    "banner.partial": Message("部分未证实", "Partly unproven"),
    "banner.invalid": Message("结果无效", "Not valid"),
    "banner.failed": Message("运行失败", "Failed"),
    "banner.not_run": Message("未运行", "Not run"),
    "said.measured": Message(
        "{config}：{value} token/p/s，{held} 项证明全部成立。",
        "{config}: {value} token/p/s, and all {held} proofs hold.",
    ),
    "said.all_measured": Message(
        "全部 {n} 个 cell 均为 MEASURED，{held} 项证明全部成立。",
        "All {n} cells are MEASURED, and all {held} proofs hold.",
    ),
    "said.unproven": Message(
        "{config} 为 {verdict}，不给出数字：{reason}",
        "{config} is {verdict}, so there is no number: {reason}",
    ),
    "said.partial": Message("{n} 个 cell 中有 {bad} 个没有数字。", "{bad} of {n} cells have no number."),
    "said.proxy": Message(
        "这是 {of} 的替身（proxy）：它证明流程可行，不代表速度，绝不与已发布的结果比较。",
        "A proxy of {of}: it proves the path, not the speed, and is never compared with published rows.",
    ),
    "said.rehearsal": Message(
        "这是演练（rehearsal）：加速卡由替身扮演，其数字绝不用于比较。",
        "A rehearsal: the accelerators are stand-ins, and no figure is ever compared.",
    ),
    "said.regression": Message(
        "{config}：{value} token/p/s，比此前 {n} 次运行的中位数 {median} 低 {change}（下限 {limit}）。",
        "{config}: {value} token/p/s, {change} below the median {median} of the {n} runs before "
        "(limit {limit}).",
    ),
    "said.improvement": Message(
        "{config}：{value} token/p/s，比此前 {n} 次运行的中位数 {median} 高 {change}（上限 {limit}）。",
        "{config}: {value} token/p/s, {change} above the median {median} of the {n} runs before "
        "(limit {limit}).",
    ),
    "said.first_bad": Message("自 {run}（{date}）起。", "First seen in {run} ({date})."),
    "said.suspect": Message(
        "只有这一次：下一次运行仍如此才算退化。", "Once only: it counts when the next run confirms it."
    ),
    "said.changed": Message("与上一次正常运行相比的变化：{what}", "Changed since the last good run: {what}"),
    "said.slow": Message(
        "{config}：{node} 的设备 {device}（rank {rank}）计算慢 {over}",
        "{config}: device {device} of {node} (rank {rank}) computes {over} slower than its peers",
    ),
    # 2. The cards.
    "card.speed": Message("吞吐量", "Throughput"),
    "card.mfu": Message("MFU", "MFU"),
    "card.mem": Message("显存 / 内存", "Memory"),
    "card.loss": Message("loss", "Loss"),
    "card.per_device": Message("token/p/s", "token/p/s"),
    "card.against": Message("较上次正常运行", "against the last good run"),
    "card.first": Message("没有更早的可比运行", "no earlier run to compare with"),
    "card.unproven": Message("未证实，不给出数字", "not proven, so no number"),
    "card.why": Message("原因见表下注释", "the table's notes say why"),
    # 3. The table.
    "table.title": Message("性能指标", "Performance"),
    "table.copy_md": Message("复制 Markdown", "Copy Markdown"),
    "table.copy_csv": Message("复制 CSV", "Copy CSV"),
    "copied": Message("已复制", "Copied"),
    "copy_failed": Message("浏览器不允许复制", "The browser refused"),
    "table.marks": Message(
        "“/”：不适用或未测；“–”：未证实或未知，原因见注释。",
        "“/”: not applicable or not measured by choice. “–”: not proven or not known, and a note says why.",
    ),
    # 4. Curves.
    "curves.title": Message("曲线", "Curves"),
    "curves.unproven": Message(
        "该 cell 未证实：以下是原始记录，供查找原因，不是结果。",
        "This cell is not proven: these are its raw records, shown to find out why, and no result.",
    ),
    "curves.thinned": Message(
        "每条曲线最多画 {most} 个点（共记录 {recorded} 个），每一段的最小值和最大值都保留。",
        "At most {most} points of a curve are drawn ({recorded} were recorded); the lowest and "
        "highest of every stretch are kept.",
    ),
    "curves.whole": Message(
        "曲线含全部 {recorded} 个记录点。", "The curves hold all {recorded} recorded points."
    ),
    "curves.hint": Message(
        "灰色区域为预热，不计入测量。拖动以放大，双击还原。",
        "The grey stretch is warm-up and not measured. Drag to zoom, double-click to go back.",
    ),
    "curves.missing": Message("没有记录：{names}。", "Not recorded: {names}."),
    "curves.missing_cpu": Message("（CPU 没有加速卡探针）", " (a CPU has no accelerator to probe)"),
    "curves.none": Message("该 cell 没有留下任何一步的记录。", "This cell left no record of any step."),
    "curves.values": Message("数值", "Values"),
    "chart.throughput": Message("吞吐量", "Throughput"),
    "chart.loss": Message("loss", "Loss"),
    "chart.step_time": Message("步时间", "Step time"),
    "chart.memory": Message("显存占用", "Device memory"),
    "chart.power": Message("功耗", "Power"),
    "chart.temperature": Message("温度", "Temperature"),
    "axis.step": Message("步", "step"),
    "axis.time": Message("自第一步起的秒数", "seconds since the first step"),
    "line.throughput": Message("全部设备的均值", "mean of all devices"),
    "line.loss": Message("全部 rank 的均值", "mean of all ranks"),
    "line.step_time": Message("最慢的 rank", "slowest rank"),
    "line.compute": Message("计算", "compute"),
    "line.comm_wait": Message("等待通信", "communication wait"),
    "line.data_wait": Message("等待数据", "data wait"),
    "line.highest": Message("最高的设备", "highest device"),
    "line.lowest": Message("最低的设备", "lowest device"),
    "line.device": Message("设备", "device"),
    "stat.line": Message("曲线", "Curve"),
    "stat.first": Message("最初", "First"),
    "stat.last": Message("最后", "Last"),
    "stat.median": Message("中位数", "Median"),
    "stat.low": Message("最低（位置）", "Lowest (at)"),
    "stat.high": Message("最高（位置）", "Highest (at)"),
    # 5. Trend.
    "trend.title": Message("趋势", "Trend"),
    "trend.band": Message(
        "token/p/s，最近 {count} 次同类运行；灰带为此前 {n} 次的中位数 {median} ± 4·MAD（{low} … {high}）。",
        "token/p/s of the last {count} runs of this kind; the band is the median {median} of {n} "
        "runs before ± 4·MAD ({low} … {high}).",
    ),
    "trend.no_band": Message(
        "token/p/s，同类运行共 {count} 次；至少 {least} 次更早的 MEASURED 运行才有正常范围。",
        "token/p/s, runs of this kind: {count}; a usual band takes {least} MEASURED runs before this one.",
    ),
    "trend.in_band": Message("≈ 在正常范围内", "≈ within the usual band"),
    "trend.suspect": Message("▼ 可疑，待确认", "▼ suspect, to be confirmed"),
    "trend.regression": Message("▼ 退化", "▼ regression"),
    "trend.improvement": Message("▲ 提升", "▲ improvement"),
    "trend.noisy": Message("~ 波动太大，无法判断", "~ too noisy to judge"),
    "trend.no_history": Message("历史不足，无法判断", "not enough history to judge"),
    "trend.unmeasured": Message("× 为没有数字的运行", "× is a run without a number"),
    "trend.runs": Message("各次运行", "The runs"),
    "trend.run": Message("运行", "Run"),
    "trend.when": Message("时间（UTC）", "Created (UTC)"),
    "trend.value": Message("token/p/s", "token/p/s"),
    "trend.verdict": Message("判定", "Verdict"),
    # 6. Heat map.
    "heat.title": Message("每个设备的计算时间", "Compute time of every device"),
    "heat.compute": Message(
        "每个测量步的计算时间的中位数，已扣除等待通信和数据的时间；全部设备的中位数为 {median}。",
        "Median compute time of a measured step, without waiting for communication or data; the "
        "median of all devices is {median}.",
    ),
    "heat.whole": Message(
        "该引擎不报告等待通信的时间，因此显示整步时间（中位数 {median}）："
        "慢的设备会被其他设备的等待掩盖，不作判断。",
        "This engine does not say how long a rank waited for the others, so the whole step is "
        "shown (median {median}): a slow device hides among waiting ones, and none is judged.",
    ),
    "heat.none": Message("没有测量步的记录。", "No measured step was recorded."),
    "heat.node": Message("节点", "Node"),
    "heat.device": Message("设备 {n}", "device {n}"),
    "heat.fast": Message("快", "faster"),
    "heat.slow": Message("慢", "slower"),
    "heat.marked": Message("▲ 明显慢于其他设备", "▲ stands out as slow"),
    "heat.even": Message("没有设备明显慢于其他设备。", "No device stands out."),
    # 7. Comparison.
    "compare.title": Message("对比", "Comparison"),
    "compare.last": Message("与上一次正常运行 {run}", "With the last good run, {run}"),
    "compare.no_last": Message(
        "没有更早的、可比的 MEASURED 运行。", "There is no earlier MEASURED run of the same kind."
    ),
    "compare.published": Message("与已发布的结果", "With published rows"),
    "compare.no_published": Message(
        "没有这些 case 的已发布结果。", "No published rows of these cases are stored."
    ),
    "compare.notes": Message("为什么没有比值：说明（{n} 条）", "Why there is no ratio: {n} notes"),
    "compare.before": Message("上次", "Then"),
    "compare.now": Message("本次", "Now"),
    "compare.change": Message("变化", "Change"),
    "metric.speed": Message("token/p/s", "token/p/s"),
    "metric.mfu": Message("MFU", "MFU"),
    "metric.loss": Message("loss", "loss"),
    "metric.mem": Message("显存 / 内存（GiB）", "memory (GiB)"),
    "metric.p50": Message("步时间 p50（s）", "step time p50 (s)"),
    "metric.p99": Message("步时间 p99（s）", "step time p99 (s)"),
    # 8. and 9. Environment.
    "diff.title": Message("环境差异", "What changed around it"),
    "diff.none": Message(
        "与 {run} 相比，环境没有变化（{same} 项相同）。",
        "Nothing changed since {run} ({same} entries are equal).",
    ),
    "diff.some": Message(
        "与 {run} 相比有 {changed} 项变化，{same} 项相同。",
        "{changed} entries changed since {run}, {same} are equal.",
    ),
    "diff.item": Message("项目", "Entry"),
    "diff.equal": Message("相同的项目", "Equal entries"),
    "diff.commit": Message("nx8 提交", "nx8 commit"),
    "diff.version": Message("nx8 版本", "nx8 version"),
    "diff.config": Message("配置哈希", "config hash"),
    "diff.network": Message("网络", "network"),
    "diff.nodes": Message("节点", "nodes"),
    "diff.image": Message("镜像 {tag}", "image {tag}"),
    "diff.rank": Message("rank 所见：{name}", "ranks: {name}"),
    "environment.title": Message("环境与批尺寸", "Environment and batch"),
    # 10. Warnings.
    "warnings.title": Message("警告与未成立的证明", "Warnings and failed checks"),
    "warnings.none": Message("没有警告，所有证明均成立。", "No warnings; every proof holds."),
    "warnings.proof": Message("{cell}：{name}——{detail}", "{cell}: {name}: {detail}"),
    "warnings.dirty": Message(
        "nx8 的工作区有未提交的改动：提交号不足以重现。",
        "nx8 ran with uncommitted changes: its commit alone does not reproduce this run.",
    ),
    "warnings.unread": Message(
        "{cell}：rank {rank} 的记录有 {n} 行无法读取，例如：{sample}",
        "{cell}: {n} lines of rank {rank} could not be read, such as: {sample}",
    ),
    "warnings.log": Message("{file} 的最后 {lines} 行", "Last {lines} lines of {file}"),
    "warnings.traceback": Message("{cell}：rank {rank} 的回溯", "{cell}: traceback of rank {rank}"),
    # 11. Provenance.
    "provenance.title": Message("出处与证明", "Provenance and proofs"),
    "provenance.repeat": Message("重复这次运行", "Repeat exactly this run"),
    "provenance.job": Message("{cell}：交给训练程序的 job.json", "{cell}: job.json, as the trainer got it"),
    "provenance.dockerfile": Message("{tag}：渲染后的 Dockerfile", "{tag}: Dockerfile as rendered"),
    "provenance.files": Message(
        "result.json 列出了全部 {files} 个原始文件及其 SHA-256。",
        "result.json lists all {files} raw files with their SHA-256.",
    ),
    "provenance.offline": Message(
        "本页是一个文件，不访问网络；由 nx8 {version} 从该运行的文件夹生成。曲线由 uPlot 1.6.32（MIT）绘制。",
        "This page is one file and asks nothing of any network; nx8 {version} made it from the "
        "run's folder. Curves are drawn by uPlot 1.6.32 (MIT).",
    ),
    # The index of a site.
    "index.title": Message("全部运行", "All runs"),
    "index.series": Message("各系列的趋势", "Series"),
    "index.runs": Message("运行", "Runs"),
    "index.none": Message("还没有任何运行。", "There is no run yet."),
    "index.more": Message("较早的 {n} 次运行未列出。", "{n} older runs are left out."),
    "index.config": Message("配置", "Configuration"),
    "index.state": Message("状态", "State"),
}


class Span(NamedTuple):
    """A text in both languages; equal where it is nobody's language."""

    zh: str
    en: str


def word(key: str, /, **values: object) -> Span:
    """The words `key` in both languages; a value that is a Span goes in by its own language."""
    message = WORDS[key]
    zh = {name: value.zh if isinstance(value, Span) else value for name, value in values.items()}
    en = {name: value.en if isinstance(value, Span) else value for name, value in values.items()}
    return Span(message.zh.format(**zh), message.en.format(**en))


def plain(text: object) -> Span:
    return Span(str(text), str(text))


def joined(parts: list[Span], zh: str, en: str) -> Span:
    return Span(zh.join(one.zh for one in parts), en.join(one.en for one in parts))
