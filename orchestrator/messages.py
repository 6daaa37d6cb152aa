"""Every word of the reports, in Chinese and English, by key. A test holds that both have the same
placeholders.

Names of proofs, metrics, files and what programs said stay as they are in both: they are looked up word for
word.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["zh", "en"]


class Message(NamedTuple):
    zh: str
    en: str


MESSAGES: dict[str, Message] = {
    # The heading row, in the published wording.
    "column.config": Message("配置", "Configuration"),
    "column.precision": Message("precision", "precision"),
    "column.parallel": Message("parallel", "parallel"),
    "column.fix_hp": Message("fix_hp", "fix_hp"),
    "column.tokens_per_second_per_device": Message("token/p/s", "token/p/s"),
    "column.loss": Message("loss", "loss"),
    "column.mem": Message("mem", "mem"),
    "column.acc_mmmu": Message("acc(MMMU)", "acc(MMMU)"),
    "column.mfu": Message("MFU", "MFU"),
    # 配置: the node count in words, the devices of all nodes together, the scale.
    "config": Message(
        "{device}{nodes}{devices}卡（{scale}）", "{device} {nodes} node{s} × {per_node} devices ({scale})"
    ),
    "config.stage": Message("（{stage}）", " ({stage})"),
    "config.proxy": Message("（proxy）", " (proxy)"),
    "config.rehearsal": Message("（rehearsal）", " (rehearsal)"),
    # Notes under the table.
    "note.rehearsal": Message(
        "rehearsal：加速卡由替身扮演，其数字绝不用于比较。改动：{what}",
        "rehearsal: the accelerators are stand-ins, and no figure is ever compared. Changed: {what}",
    ),
    "note.proxy": Message(
        "proxy：以小模型代替 {of} 运行，其数字绝不与完整模型或已发布的结果比较。原因：{why}",
        "proxy: a small stand-in ran instead of {of}; its figures are never compared with the full model "
        "or with published rows. Why: {why}",
    ),
    "note.unproven": Message("{verdict}，不给出数字：{reason}", "{verdict}, so no number: {reason}"),
    "note.no_value": Message("{column} 无值：{reason}", "no {column}: {reason}"),
    "note.mfu": Message(
        "MFU = {speed} token/p/s × {multiplier} × N ÷ 峰值；N = {parameters}，"
        "峰值 {peak} TFLOPS（{dtype}，{source}）；按 PaLM 附录 B 计入注意力：{palm}",
        "MFU = {speed} token/p/s × {multiplier} × N ÷ peak; N = {parameters}, "
        "peak {peak} TFLOPS ({dtype}, {source}); with attention, by PaLM's appendix B: {palm}",
    ),
    "note.mem_cpu": Message(
        "mem 在 CPU 上是各 rank 峰值 RSS 之和 / 节点 MemTotal，单位 GiB",
        "mem on a CPU is the sum of the ranks' peak RSS / MemTotal of the node, in GiB",
    ),
    # The report around the table.
    "title": Message("训练测试报告", "Training benchmark report"),
    "section.table": Message("性能指标", "Performance"),
    "section.run": Message("运行信息", "Run"),
    "section.facts": Message("明细", "Details"),
    "section.proofs": Message("证明", "Proofs"),
    "section.reasons": Message("原因", "Reasons"),
    "section.traceback": Message("rank {rank} 的回溯", "Traceback of rank {rank}"),
    "fact.run_id": Message("运行", "run"),
    "fact.created": Message("时间（UTC）", "created (UTC)"),
    "fact.cluster": Message("集群", "cluster"),
    "fact.vendor": Message("厂商", "vendor"),
    "fact.host": Message("主机", "host"),
    "fact.commit": Message("提交", "commit"),
    "fact.commit_dirty": Message("{commit}（有未提交的改动）", "{commit} (with uncommitted changes)"),
    "fact.version": Message("nx8 版本", "nx8 version"),
    "fact.exit_code": Message("退出码", "exit code"),
    "fact.overhead": Message("编排开销", "orchestration overhead"),
    "fact.config_hash": Message("配置哈希", "config hash"),
    "fact.seed": Message("随机种子", "seed"),
    "fact.engine": Message("引擎", "engine"),
    "fact.engine_text": Message(
        "{engine}，ZeRO {zero}，重计算 {recompute}，注意力 {attention}，{dtype}（{mechanism}）",
        "{engine}, ZeRO {zero}, recompute {recompute}, attention {attention}, {dtype} ({mechanism})",
    ),
    "fact.batch": Message("批尺寸", "batch"),
    "fact.batch_text": Message(
        "LBS {lbs} × GAS {gas} × DP {dp} = GBS {gbs}，MPE {mpe}",
        "LBS {lbs} × GAS {gas} × DP {dp} = GBS {gbs}, MPE {mpe}",
    ),
    "fact.steps": Message("步数", "steps"),
    "fact.steps_text": Message("预热 {warmup} + 测量 {measured}", "{warmup} warm-up + {measured} measured"),
    "fact.data": Message("数据", "data"),
    "fact.data_text": Message("{tokens} 个 token，SHA-256 {sha256}", "{tokens} tokens, SHA-256 {sha256}"),
    "fact.speed": Message("token/p/s", "token/p/s"),
    "fact.speed_text": Message(
        "中位数 {median}，均值 {mean}，标准差 {std}，MAD {mad}，最小 {min}，最大 {max}，n = {n}",
        "median {median}, mean {mean}, standard deviation {std}, MAD {mad}, min {min}, max {max}, n = {n}",
    ),
    "fact.ci": Message("中位数 95 % 置信区间", "95 % confidence interval of the median"),
    "fact.ci_text": Message("{low} … {high}（次序统计量）", "{low} … {high} (order statistics)"),
    "fact.ci_none": Message("步数少于 6，无法给出", "none: fewer than 6 steps"),
    "fact.step_time": Message("步时间 p50 / p95 / p99", "step time p50 / p95 / p99"),
    "fact.loss": Message("loss 前五分之一 / 后五分之一", "loss, first fifth / last fifth"),
    "fact.coverage": Message("测量窗口内步时间占比", "share of the window spent in steps"),
    "fact.peak_memory": Message("框架峰值内存", "framework's peak memory"),
    "fact.versions": Message("版本", "versions"),
    "proof.name": Message("证明", "proof"),
    "proof.held": Message("成立", "holds"),
    "proof.detail": Message("所见", "seen"),
    "proof.yes": Message("是", "yes"),
    "proof.no": Message("否", "no"),
    "none": Message("无", "none"),
    "unknown": Message("未知", "unknown"),
}

_NODES_ZH = ("单", "两", "三", "四", "五", "六", "七", "八", "九", "十")


def say(key: str, language: Language, /, **values: object) -> str:
    """The message `key` in `language`. Values go in as they are: writers of a format escape the whole."""
    message = MESSAGES[key]
    return (message.zh if language == "zh" else message.en).format(**values)


def nodes_text(num_nodes: int, language: Language) -> str:
    """The node count of 配置: 单机, 两机, … 十机, 11机; in English the digits."""
    if language == "en":
        return str(num_nodes)
    return f"{_NODES_ZH[num_nodes - 1] if 1 <= num_nodes <= 10 else num_nodes}机"
