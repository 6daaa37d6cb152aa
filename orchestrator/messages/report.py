"""Words of the reports, and of tables beside them, by key."""

from __future__ import annotations

from orchestrator.messages.message import Message

REPORT: dict[str, Message] = {
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
    "note.degraded": Message(
        "degraded：结果保留，但有落后者拖慢了所有人：{slow}",
        "degraded: the result stands, but others were kept waiting: {slow}",
    ),
    "degraded.node": Message(
        "节点 {node} 的计算用时为较快一半的 {factor} 倍",
        "node {node} computed {factor} times as long as the faster half",
    ),
    "degraded.rank": Message(
        "rank {rank}（{node}）的计算用时为较快一半的 {factor} 倍",
        "rank {rank} ({node}) computed {factor} times as long as the faster half",
    ),
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
    "note.mfu_ceiling": Message(
        "为当日实测上限的 {share}：{tflops} TFLOPS（{dtype}，{at}，nx8 doctor --deep），按 PaLM 附录 B 计",
        "{share} of what the devices were measured to do: {tflops} TFLOPS ({dtype}, {at}, nx8 doctor --deep)"
        ", counted by PaLM's appendix B",
    ),
    "note.mem_cpu": Message(
        "mem 在 CPU 上是各 rank 峰值 RSS 之和 / 节点 MemTotal，单位 GiB",
        "mem on a CPU is the sum of the ranks' peak RSS / MemTotal of the node, in GiB",
    ),
    "note.unknown": Message("{what}未知：{reason}", "{what} is not known: {reason}"),
    # The published document: configuration and how it ran.
    "reference.title": Message("{name}配置与运行信息参考", "{name}: configuration and how it ran"),
    "reference.environment": Message("环境配置", "Environment"),
    "reference.run": Message("运行情况", "How it ran"),
    "reference.batch": Message("输入批尺寸", "Batch"),
    "reference.general": Message("通用指标", "General figures"),
    "reference.performance": Message("性能指标", "Performance"),
    "part.named": Message("{device}{part}", "{part} of {device}"),
    "part.hardware": Message("硬件环境", "Hardware"),
    "part.software": Message("软件环境", "Software"),
    "part.parallel": Message("并行策略", "Parallel strategy"),
    "part.optimisations": Message("优化策略", "Optimisations"),
    "entry.machine_model": Message("机器型号", "Machine"),
    "entry.accelerator_model": Message("加速卡型号", "Accelerator"),
    "entry.cpu_model": Message("CPU型号", "CPU"),
    "entry.network": Message("多机网络类型、带宽", "Network between nodes and its bandwidth"),
    "entry.os": Message("OS版本", "OS"),
    "entry.kernel": Message("OS kernel版本", "OS kernel"),
    "entry.driver": Message("加速卡驱动版本", "Driver"),
    "entry.firmware": Message("加速卡固件版本", "Firmware"),
    "entry.docker": Message("Docker 版本", "Docker"),
    "entry.image": Message("Docker镜像和版本", "Docker image and version"),
    "entry.framework": Message("训练框架版本", "Training framework"),
    "entry.dependencies": Message("依赖软件版本", "Dependencies"),
    "entry.technique": Message("并行技术", "Technique"),
    "entry.implementer": Message("实施者", "Done by"),
    "entry.detail": Message("实施细节", "Details"),
    "entry.optimisation": Message("优化方案", "Optimisation"),
    "network.rate": Message("{kind}，{count}{rate}Gb/s", "{kind}, {count}{rate} Gb/s"),
    "network.no_rate": Message("{kind}，{count}/", "{kind}, {count}/"),
    "technique.recompute": Message("gradient_checkpointing", "gradient_checkpointing"),
    "technique.sdpa": Message("scaled dot product attention", "scaled dot product attention"),
    "technique.flash_attention_2": Message("flash attention 2", "flash attention 2"),
    "zero.one": Message("ZeRO-DP O{zero}, DP_SIZE={dp}", "ZeRO-DP O{zero}, DP_SIZE={dp}"),
    "zero.stage": Message("{stage}-stage:O{zero}", "{stage}-stage:O{zero}"),
    "zero.none": Message("DP_SIZE={dp}", "DP_SIZE={dp}"),
    "batch.micro_batch_size": Message(
        "local_batchsize(micro_batchsize)，简写为LBS，即实际进入模型的张量批尺寸，为{source}中所写，在本case中{value}",
        "local_batchsize (micro_batchsize), LBS: sequences that enter the model at once, as {source} has it; "
        "in this case {value}",
    ),
    "batch.sequence_length": Message(
        "seqlength(max_position_embedding)，简写为MPE，即实际进入模型的序列长度，为{source}中所写，在本case中{value}",
        "seqlength (max_position_embedding), MPE: length of the sequences that enter the model, as {source} "
        "has it; in this case {value}",
    ),
    "batch.gradient_accumulation_steps": Message(
        "gradient_accumulate_steps，简写为GAS，即梯度累加步数，为{source}中所写，在本case中{value}",
        "gradient_accumulate_steps, GAS: micro-batches of one step, as {source} has it; in this case {value}",
    ),
    "batch.global_batch_size": Message(
        "global_batchsize恒等于local_batchsize*gradient_accumulate_steps*data_parallel_size，简写为GBS。"
        "在本case中，{rule}",
        "global_batchsize is always local_batchsize*gradient_accumulate_steps*data_parallel_size, GBS. "
        "In this case {rule}",
    ),
    "batch.default": Message("默认为{value}", "{value} unless said otherwise"),
    "batch.stage": Message("{stage}阶段为{value}", "{value} for {stage}"),
    "batch.only_data": Message(
        "只存在数据并行，因此data_parallel_size=world_size",
        "there is data parallelism only, so data_parallel_size=world_size",
    ),
    "batch.mixed": Message(
        "data_parallel_size=world_size/TPsize/PPsize", "data_parallel_size=world_size/TPsize/PPsize"
    ),
    "batch.arithmetic": Message(
        "{config}：LBS {lbs} × GAS {gas} × DP {dp} = GBS {gbs}；每步 {gbs} × MPE {mpe} = {tokens} token",
        "{config}: LBS {lbs} × GAS {gas} × DP {dp} = GBS {gbs}; {gbs} × MPE {mpe} = {tokens} tokens a step",
    ),
    "comma": Message("，", ", "),
    "full_stop": Message("。", ". "),
    "list": Message("、", ", "),
    "semicolon": Message("；", "; "),
    "separator.hardware": Message(": ", ": "),
    "separator.other": Message("：", ": "),
    "general.name": Message("指标名称", "Figure"),
    "general.value": Message("指标值", "Value"),
    "general.remark": Message("特殊说明", "Remark"),
    "general.see": Message("{column},见“性能指标”", "{column}, see “Performance”"),
    "general.task": Message("任务类别", "Task"),
    "general.model": Message("模型", "Model"),
    "general.dataset": Message("数据集", "Data set"),
    "general.precision": Message("数据精度", "Precision"),
    "general.parallel": Message("超参修改", "Hyperparameters changed"),
    "general.fix_hp": Message("超参修改", "Hyperparameters changed"),
    "general.device": Message("硬件设备简称", "Device, in short"),
    "general.mem": Message("硬件存储使用", "Device memory"),
    "general.mfu": Message("计算使用率", "Model FLOPs utilization"),
    "general.tokens_per_second_per_device": Message("吞吐量", "Throughput"),
    "general.loss": Message("损失值", "Loss"),
    "general.acc_mmmu": Message("MMMU（val）结果", "MMMU (val) result"),
    "general.acc_mmmu.value": Message("acc(推理/验证)", "acc (inference/validation)"),
    "remark.precision": Message("可选fp32/amp/fp16/bf16", "one of fp32/amp/fp16/bf16"),
    "remark.parallel": Message("格式为TPxPPyDPz，例如TP2PP1DP4", "as TPxPPyDPz, for example TP2PP1DP4"),
    "remark.fix_hp": Message("运行必要特殊超参", "what it takes to run"),
    "remark.mem": Message("通常称为“显存”,单位为GiB", "in GiB"),
    "remark.mfu": Message("参见PaLM论文定义", "as the PaLM paper defines it"),
    "remark.tokens_per_second_per_device": Message(
        "平均单卡每秒处理的token数", "tokens a second and device, on average"
    ),
    "remark.loss": Message("训练损失值", "training loss"),
    "remark.acc_mmmu": Message("MMMU（val）回答准确率", "share of right answers on MMMU (val)"),
    "reason.not_recorded": Message("结果中没有记录", "the result does not hold it"),
    "reason.cpu": Message("由 CPU 计算，没有加速卡", "a CPU computed, there is no accelerator"),
    "reason.no_container": Message("在本机直接运行，没有容器", "it ran on this machine, without a container"),
    "reason.one_machine": Message(
        "只在本机运行，没有用到多机网络", "it ran on this machine alone, without a network between nodes"
    ),
    "reason.no_document": Message(
        "结果中没有该 case 的文档说明", "the result does not hold the words of the case's document"
    ),
    "original": Message("{text}（原文）", "{text}"),
    # The report around the table.
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
    "heading.cell": Message("{cell}：", "{cell}: "),
    "proof.name": Message("证明", "proof"),
    "proof.held": Message("成立", "holds"),
    "proof.detail": Message("所见（原文）", "seen"),
    "proof.yes": Message("是", "yes"),
    "proof.no": Message("否", "no"),
    "proof.named": Message("{label}（{name}）", "{name}"),
    "proof.broken": Message("证明“{label}”（{name}）不成立：{detail}", "{name}: {detail}"),
    "proves.all_ranks_reported": Message("所有 rank 均已报告", "every rank reported"),
    "proves.records_intact": Message("记录完整", "records are intact"),
    "proves.nonce": Message("属于本次运行", "they are this run's"),
    "proves.end_records": Message("结束记录吻合", "end records match"),
    "proves.exit_codes": Message("退出码为 0", "exit codes are 0"),
    "proves.steps_reached": Message("步数达到计划", "planned steps were reached"),
    "proves.window_complete": Message("测量窗口完整", "the window is complete"),
    "proves.losses_finite": Message("loss 均为有限数", "losses are finite"),
    "proves.job": Message("任务一致", "the job is the planned one"),
    "proves.model": Message("模型一致", "the model is the planned one"),
    "proves.trained_part": Message("训练的部分一致", "the planned part learns"),
    "proves.initial_weights": Message("初始权重一致", "initial weights are the planned ones"),
    "proves.projector_saved": Message("投影层已保存", "the projector was saved"),
    "proves.world_size": Message("规模与设置一致", "size and settings are the planned ones"),
    "proves.batch": Message("批尺寸一致", "the batch is the planned one"),
    "proves.data": Message("数据一致", "the data are the planned ones"),
    "proves.places": Message("每个 rank 在切分中的位置一致", "every rank is at its place in the cut"),
    "proves.agreement": Message("各 rank 的 loss 与梯度范数一致", "ranks agree on loss and gradient norm"),
    "proves.updated": Message("每一步都更新了权重", "steps updated the weights"),
    "proves.program": Message("外部程序按计划运行", "the external program ran as planned"),
    "proves.program_data": Message("外部程序的数据一致", "its data are the planned ones"),
    "proves.output_intact": Message("输出完整", "its output is intact"),
    "proves.log_whole": Message("日志完整", "its log is whole"),
    "proves.log_settings": Message("日志所述设置一致", "its log states the planned settings"),
    "proves.consumed_samples": Message("消耗样本数吻合", "consumed samples follow"),
    "proves.step_times": Message("步时间与本方时钟相符", "its step times agree with our clock"),
    "proves.wall_clock": Message("与墙钟时间相符", "times agree with the wall clock"),
    "proves.window_covered": Message("测量窗口被步时间填满", "step times fill the window"),
    "proves.mfu_possible": Message("MFU 不超过 100 %", "MFU is at most 100 %"),
    # What others published, and what of it may be set beside a run.
    "published.section.source": Message("来源", "Source"),
    "published.section.findings": Message("导入时发现的问题", "Found on import"),
    "published.source": Message(
        "由他人公布，并非在此测得：{file}，{lines} 行，SHA-256 {sha256}",
        "published by others, not measured here: {file}, {lines} lines, SHA-256 {sha256}",
    ),
    "published.finding": Message(
        "- 第 {line} 行 {code}：{message}。合适的写法：{fits}",
        "- line {line} {code}: {message}. What would fit: {fits}",
    ),
    "compare.title": Message("对比", "Comparison"),
    "compare.column.number": Message("#", "#"),
    "compare.column.source": Message("来源", "Source"),
    "compare.column.config": Message("配置", "Configuration"),
    "compare.column.batch": Message("LBS × GAS → GBS，MPE", "LBS × GAS → GBS, MPE"),
    "compare.column.speed_ratio": Message("token/p/s 比", "token/p/s ratio"),
    "compare.column.mfu_ratio": Message("MFU 比", "MFU ratio"),
    "compare.reference": Message(
        "比值相对于第 1 行；只有同类才给出比值。", "Ratios are to row 1, and only between like and like."
    ),
    "compare.differs": Message("{name}：{other}，第 1 行为 {one}", "{name}: {other}, row 1 has {one}"),
    "compare.not_said": Message(
        "{name}：{side}没有说明，无法断定同类", "{name}: {side} does not say, so like for like is not known"
    ),
    "compare.row": Message("第 {number} 行", "row {number}"),
    "compare.not_ranked": Message(
        "第 {number} 行与第 1 行不同类，不排名：{what}",
        "row {number} is not like row 1, so it is not ranked: {what}",
    ),
    "compare.no_number": Message(
        "第 {number} 行没有 {column}：{reason}", "row {number} has no {column}: {reason}"
    ),
    "compare.doubtful": Message(
        "第 {number} 行的 {column} 不参与比值：{reason}",
        "row {number}, no ratio of {column}: {reason}",
    ),
    "compare.remark": Message(
        "第 {number} 行的 {name}：{other}，第 1 行：{one}", "row {number}, {name}: {other}, row 1: {one}"
    ),
    "compare.unsaid": Message("没有说明", "not said"),
    "compare.rehearsal": Message(
        "rehearsal：替身的数字绝不用于比较", "rehearsal: figures of stand-ins are never compared"
    ),
    "compare.clock": Message(
        "公布的 LLaVA 数字用另一种时钟（整个进程的墙钟时间，含启动、加载和保存）"
        "和另一种填充（按批填充的长度）得到",
        "published LLaVA figures were taken with another clock (the whole process by the wall: start, "
        "loading and saving included) and another padding (lengths as padded in the batch)",
    ),
    "compare.decoding": Message(
        "acc(MMMU)：公布的是采样束搜索，这里是贪心解码，两者不同类",
        "acc(MMMU): published answers were sampled with beams, ours are greedy: not like for like",
    ),
    "none": Message("无", "none"),
    "unknown": Message("未知", "unknown"),
}
