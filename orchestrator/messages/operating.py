"""Words of what is said about many runs, by key: `nx8 show`, `trend` and `nightly`."""

from __future__ import annotations

from orchestrator.messages.message import Message

OPERATING: dict[str, Message] = {
    # What the gate calls a figure.
    "kind.regression": Message("退化", "regression"),
    "kind.improvement": Message("提升", "improvement"),
    "kind.suspect": Message("可疑", "suspect"),
    "kind.in_band": Message("正常", "in_band"),
    "kind.recovered": Message("恢复正常", "recovered"),
    "kind.noisy": Message("波动太大", "noisy"),
    "kind.not_enough": Message("历史不足", "not_enough"),
    "kind.accepted": Message("已接受", "accepted"),
    # What differs between two runs.
    "changed.driver": Message("驱动", "driver"),
    "changed.firmware": Message("固件", "firmware"),
    "changed.kernel": Message("内核", "kernel"),
    "changed.image": Message("镜像", "image"),
    "changed.packages": Message("软件包", "packages"),
    "changed.config": Message("配置", "config"),
    "changed.environment": Message("环境变量", "environment"),
    "changed.nodes": Message("节点", "nodes"),
    "changed.system": Message("系统", "system"),
    "changed.source": Message("源码", "source"),
    "change": Message("{what} {before} → {after}", "{what} {before} → {after}"),
    "change.on": Message("{change}（{nodes}）", "{change} on {nodes}"),
    "change.gone": Message("不再使用：{nodes}", "no longer used: {nodes}"),
    "change.come": Message("新增：{nodes}", "new: {nodes}"),
    "change.absent": Message("（无）", "(none)"),
    "changes.since": Message("自 {run} 以来的变化：", "changed since {run}:"),
    "changes.none": Message("自 {run} 以来没有记录到变化", "nothing that is recorded changed since {run}"),
    # nx8 show
    "show.head": Message("{run}  {at}  退出码 {code}", "{run}  {at}  exit {code}"),
    "show.degraded": Message("，degraded", ", degraded"),
    "show.figure": Message(
        "{metric} {value} {unit}  {kind}：{why}", "{metric} {value} {unit}  {kind}: {why}"
    ),
    "show.not_judged": Message("未判定：{why}", "not judged: {why}"),
    "show.scope": Message(
        "这是 {scope}：加 --proxy 与同类相比", "a {scope}: --proxy shows it beside its own kind"
    ),
    "show.more": Message("还有 {n} 项（--json）", "and {n} more (--json)"),
    "show.accepted": Message(
        "{who} 于 {at} 接受为基线，{cell}：{reason}", "accepted by {who} at {at}, {cell}: {reason}"
    ),
    "show.every_cell": Message("所有 cell", "every cell"),
    # nx8 trend
    "trend.head": Message("{title}，{steps} 步", "{title}, {steps} steps"),
    "trend.last": Message(
        "最近 {value} {unit}  {band}（n = {n}）  {kind}：{why}",
        "last {value} {unit}  {band} (n = {n})  {kind}: {why}",
    ),
    "trend.band": Message("正常范围 {low} … {high}，中位数 {median}", "band {low} … {high}, median {median}"),
    "trend.no_band": Message("尚无正常范围", "no band yet"),
    "trend.moved": Message(
        "{day} 水平变动 {change}（仅供参考，不作判定）", "{day} the level moved {change} (advice, no verdict)"
    ),
    "trend.rehearsals": Message(
        "尚无完整测量：以下是 proxy 和 rehearsal", "no full measurement yet: these are proxies and rehearsals"
    ),
    "trend.nothing": Message("尚未存有经证明的数字", "no proven figure is stored yet"),
    # nx8 nightly: the report of a night.
    "state.running": Message("进行中", "running"),
    "state.done": Message("完成", "done"),
    "state.stopped": Message("被停止", "stopped"),
    "state.skipped": Message("跳过", "skipped"),
    "state.failed": Message("失败", "failed"),
    "severity.bad": Message("错误", "bad"),
    "severity.warn": Message("警告", "warn"),
    "night.head": Message(
        "集群 {cluster}（{vendor}）上的 nightly {suite}，始于 {at}",
        "nightly {suite} on {cluster} ({vendor}), started {at}",
    ),
    "night.not_ended": Message(
        "尚未结束：以下是 {at} 时的情况", "not ended: what follows is how it stood at {at}"
    ),
    "night.ended": Message("{at} {state}，退出码 {code}", "{state} at {at}, exit {code}"),
    "night.all_nodes": Message("{name} 全部节点", "{name} all nodes"),
    "night.num_nodes": Message("{name} {n} 个节点", "{name} {n} nodes"),
    "night.doctor": Message("doctor  {node}：{problem}", "doctor  {node}: {problem}"),
    "night.this_machine": Message("本机", "this machine"),
    "night.ran": Message("运行  {name}：{what}", "ran   {name}: {what}"),
    "night.again": Message("重跑  {name}：{what}", "again {name}: {what}"),
    "night.not_run": Message("未运行", "not run"),
    "night.not_begun": Message("未开始  {name}", "not begun  {name}"),
    "night.note": Message("备注  {note}", "note  {note}"),
    "night.exit": Message("退出码 {code}", "exit {code}"),
    "night.replaced": Message("{bad} 由 {spare} 代替", "{bad} replaced by {spare}"),
    "night.left_out": Message("{bad} 未使用（{why}）", "{bad} left out ({why})"),
    "night.figure": Message(
        "{title}  {metric} {value} {unit}{against}：{why}", "{title}  {metric} {value} {unit}{against}: {why}"
    ),
    "night.against": Message("，对照 {row}", " against {row}"),
    "night.asked_more": Message(
        "要求 {n} 个节点，集群只有 {m} 个", "{n} nodes are asked for, and the cluster has {m}"
    ),
    "night.usable": Message("{m} 个节点中可用 {n} 个（{why}）", "{n} of {m} nodes are usable ({why})"),
    "night.not_held": Message("{cell} 不与 {row} 对照：{why}", "{cell} is not held against {row}: {why}"),
    "night.no_speed": Message("它没有速度", "it has no speed"),
    # One block for each confirmed change.
    "block.regression": Message("性能退化", "REGRESSION"),
    "block.improvement": Message("性能提升", "IMPROVEMENT"),
    "block.recovered": Message("恢复正常", "RECOVERED"),
    "block.rehearsal": Message("（演练）", " (rehearsal)"),
    "block.head": Message(
        "{kind} {title}  {metric} {value}{than} {unit}{against}（{how}）",
        "{kind} {title}  {metric} {value}{than} {unit}{against} ({how})",
    ),
    "block.than": Message("，原为 {median}", " vs {median}"),
    "block.limit": Message("界限 {limit}", "limit {limit}"),
    "block.runs": Message("{n} 次运行", "{n} runs"),
    "block.nights": Message("{n} 个夜晚", "{n} nights"),
    "block.more": Message("还有 {n} 项：nx8 show {run}", "and {n} more: nx8 show {run}"),
    "block.look": Message("查看：", "look:   "),
    "block.accept": Message("接受：", "accept: "),
    # What cron should send although nothing regressed.
    "worth.busy": Message("忙：连续 {rows} 晚，{notes}", "BUSY {rows} nights in a row: {notes}"),
    "worth.not_well": Message("未成功 {name}：{reason}", "NOT WELL {name}: {reason}"),
    "worth.replaced": Message("替换 {name} 的 {bad} 由 {spare} 代替", "REPLACED {bad} by {spare} in {name}"),
    "worth.left_out": Message("缺少 {name} 未使用 {bad}：{why}", "LEFT OUT {bad} of {name}: {why}"),
    "worth.note": Message("备注 {note}", "NOTE {note}"),
    "worth.report": Message("报告：{path}   （退出码 {code}）", "report: {path}   (exit {code})"),
    # What a command is told.
    "told.title": Message(
        "nx8 nightly {suite}（集群 {cluster}）：{counted}", "nx8 nightly {suite} on {cluster}: {counted}"
    ),
    "told.recovered": Message(
        "{title}  {metric} {value} {unit} 恢复正常", "{title}  {metric} {value} {unit} is in band again"
    ),
    "told.busy": Message(
        "集群连续两晚都忙：什么都没有测量", "the cluster was busy two nights in a row: nothing was measured"
    ),
    "told.not_well": Message("这一夜以退出码 {code} 结束", "the night ended with exit {code}"),
    "told.well_again": Message("这一夜又测得了全部数字", "the night measured everything again"),
    "event.busy": Message("集群忙", "BUSY"),
    "event.not_well": Message("未成功", "NOT WELL"),
    "event.well_again": Message("已恢复", "WELL AGAIN"),
}
