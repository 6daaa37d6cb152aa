"""Our own sentences as results hold them."""

from __future__ import annotations

from orchestrator.messages.message import Message

#: Our own sentences as results hold them, in English → in Chinese. A placeholder stands for anything; `why`
#: and `where` are put into Chinese in their turn, `said` is what a program said.
SENTENCES: tuple[Message, ...] = (
    Message("{n} 个（共 {m} 个）测量步没有有限的 loss", "{n} of {m} measured steps have no finite loss"),
    Message("引擎不报告该值", "the engine does not report it"),
    Message("这种设备没有 tf32 开关", "this device has no switch for tf32"),
    Message("设备的内存就是主机内存", "the device's memory is the host's own"),
    Message("{m} 个 rank 中只有 {n} 个应答", "only {n} of {m} ranks answered"),
    Message("只有一个 rank，没有归约的对象", "one rank alone has nobody to reduce with"),
    Message("未测量上限：nx8 doctor --deep", "no ceiling was measured: nx8 doctor --deep"),
    Message("{node}：没有保存上限", "{node}: no ceiling was kept"),
    Message("{node}：上限没有注明测量时间", "{node}: the ceiling does not say when it was measured"),
    Message(
        "{node}：上限不是在运行前一天之内测得，而是在 {at}",
        "{node}: the ceiling was not measured in the day before the run but at {at}",
    ),
    Message("{node}：没有测量 {dtype} 的上限", "{node}: no ceiling was measured for {dtype}"),
    Message("{node}：并非每张卡都有 {dtype} 的上限", "{node}: not every device has a ceiling for {dtype}"),
    Message(
        "运行比实测上限还快：请在空闲节点上重新测量",
        "the run was faster than the measured ceiling: measure it anew on idle nodes",
    ),
    Message(
        "没有监控样本：该值须由设备自己的监控工具给出",
        "no monitor samples: this figure is what a device's own monitor saw",
    ),
    Message("rank {rank} 没有报告内存", "rank {rank} reported no memory"),
    Message("节点 MemTotal 未知", "MemTotal of the node is not known"),
    Message(
        "{node} 上的监控不是自行结束的：可能缺少样本",
        "the monitor on {node} did not end by itself: samples may be missing",
    ),
    Message(
        "{node} 上的监控在测量窗口之前就已结束：{why}",
        "the monitor on {node} ended before the measured window: {why}",
    ),
    Message(
        "{node} 上的监控在 {seconds} s 的测量窗口内没有得到任何应答",
        "no probe on {node} was answered within the measured window of {seconds} s",
    ),
    Message("厂商的监控工具没有给出 {node} 的内存样本", "the vendor's probe gave no memory sample on {node}"),
    Message("rank {rank} 没有报告测量步", "rank {rank} reported no measured step"),
    Message(
        "固件在 /sys/class/dmi/id 中没有写明厂商和产品",
        "the firmware names no maker and product in /sys/class/dmi/id",
    ),
    Message("/proc/cpuinfo 中没有型号", "/proc/cpuinfo names no model"),
    Message(
        "没有活动的 RDMA 端口，集群文件也没有指定网卡",
        "no RDMA port is active, and the cluster file names no interface",
    ),
    Message("没有网络设备 {interface}", "there is no network device {interface}"),
    Message(
        "{interface} 背后没有硬件：其速率不是线路的速率",
        "no hardware stands behind {interface}: its rate is no wire's",
    ),
    Message("{interface} 没有给出速率", "{interface} does not say its speed"),
    Message("设备类型 {kind} 没有这种计数器", "the device type {kind} has no such counter"),
    Message("并非每个 rank 都报告了参数量", "not every rank reported its number of parameters"),
    Message(
        "各 rank 的参数量不一致：{counts}", "the ranks disagree about the number of parameters: {counts}"
    ),
    Message("{dtype} 峰值未知：{why}", "the {dtype} peak is unknown: {why}"),
    Message(
        "演练在 CPU 上计算，设备峰值与之无关",
        "a rehearsal computes on a CPU, which the device's peak says nothing about",
    ),
    Message(
        "torch 设备为 cpu，无插件，后端为 gloo；其余均为厂商原样，由替身提供",
        "torch device cpu, no plug-in, backend gloo; everything else is the vendor's, served by stand-ins",
    ),
    Message(
        "torch 设备为 cpu，无插件，后端为 gloo，精度与 attention 为 CPU 可行者；其余均为厂商原样",
        "torch device cpu, no plug-in, backend gloo, a CPU's precision and attention; all else the vendor's",
    ),
    Message("{cell} 没有留下可用的投影层", "{cell} left no projector to begin with"),
    Message("计划中没有测量步", "the plan measures no step"),
    Message(
        "第 {step} 步被 rank {rank} 报告了 {times} 次，而不是一次",
        "step {step} was reported {times} times by rank {rank}, not once",
    ),
    Message("rank {rank} 没有长度为正的测量窗口", "rank {rank} has no measured window of positive length"),
    Message("有一步的时间不是正数", "a step time is not positive"),
    Message("随后 {why}", "then {why}"),
    Message("rank {rank} 抛出异常“{said}”（原文）{where}", "rank {rank} raised {said}{where}"),
    Message(
        "rank {rank} 被 {signal} 终止，而非由其启动器终止{where}",
        "rank {rank} was ended by {signal}, not by its launcher{where}",
    ),
    Message(
        "rank {rank} 在其启动器结束时尚未结束{where}",
        "rank {rank} had not ended when its launcher did{where}",
    ),
    Message(
        "rank {rank} 以退出码 {code} 结束，没有留下 fail 记录{where}",
        "rank {rank} exited with code {code} and left no fail record{where}",
    ),
    Message(
        "rank {rank} 在写下结束记录之前以退出码 0 结束，而其他 rank 仍在运行{where}",
        "rank {rank} exited with code 0 before its end record, while others went on{where}",
    ),
    Message("，此前没有任何记录", ", before any record"),
    Message("，在第 {step} 步之后", ", after step {step}"),
    Message("，在第一步之前", ", before its first step"),
    Message("，在就绪之前", ", before it was ready"),
    Message("挂起：{why}", "hung: {why}"),
    Message("启动时限：{why}", "start-up limit: {why}"),
    Message("时间限制：{why}", "time limit: {why}"),
    Message("失联：{why}", "lost: {why}"),
    Message("被停止：{why}", "stopped: {why}"),
    Message(
        "{ranks} 没有到达（{doing}）；{limit} s 内没有新的一步；{why}",
        "{ranks} did not arrive: {doing}; no step for {limit} s; {why}",
    ),
    Message("{limit} s 内没有新的一步；{why}", "no step for {limit} s; {why}"),
    Message("{limit} s 内没有第一步；{why}", "no first step within {limit} s; {why}"),
    Message("各 rank 最后一步：{steps}", "last steps: {steps}"),
    Message("设备内存不足：{why}", "out of memory (device): {why}"),
    Message("主机内存不足：{why}", "out of memory (host): {why}"),
    Message("磁盘已满：{why}", "disk full: {why}"),
    Message(
        "内核终止了 rank {rank}，docker 就 {node} 如此报告{where}",
        "the kernel killed rank {rank}, docker says so of {node}{where}",
    ),
    Message(
        "rank {rank} 没有空间写记录（退出码 {code}）{where}",
        "rank {rank} had no room for its records (exit code {code}){where}",
    ),
    Message(
        "启动器没有空间写状态（退出码 {code}）", "the launcher had no room for its status (exit code {code})"
    ),
    Message(
        "{node}：docker 报告内核因内存不足终止了进程",
        "{node}: docker says that the kernel killed something for want of memory",
    ),
    Message("{limit} s 内没有新的一步", "no new step for {limit} s"),
    Message("{limit} s 之后并非每个 rank 都在运行", "not every rank was under way after {limit} s"),
    Message("运行的时间限制已用完", "the run's time limit was used up"),
    Message("rank 的去向不明", "what became of the ranks is not known"),
    Message("被 {signal} 停止", "stopped by {signal}"),
    Message("最后一步 {step}：{ranks}", "last step {step}: {ranks}"),
    Message("未就绪：{ranks}", "not ready: {ranks}"),
    Message("已就绪，尚无任何一步：{ranks}", "ready, no step yet: {ranks}"),
    Message("没有任何记录：{ranks}", "no record at all: {ranks}"),
    Message("因此被启动器停止：{ranks}", "stopped by the launcher as a consequence: {ranks}"),
    Message("节点 {node}：其启动器被 {by} 停止", "node {node}: its launcher was stopped by {by}"),
    Message("没有看到启动器退出", "the launcher's exit was never seen"),
    Message("启动器以退出码 {code} 结束", "the launcher exited with code {code}"),
    Message("运行被 {signal} 停止", "the run was stopped by {signal}"),
    Message("运行的时间限制 {limit} s 已用完", "the run's time limit of {limit} s was used up"),
    Message("主机没有留下关于该 cell 的记录", "the host left no word about this cell"),
    Message("从未启动", "never started"),
    # The gate's.
    Message("基线需要 {m} 个点，现有 {n} 个", "{n} of {m} points that a baseline needs"),
    Message(
        "{n} 个点的中位数是 {value}：无法给出相对变化",
        "the median of {n} points is {value}: no relative change can be told",
    ),
    Message("{change}，在 {n} 次的中位数 ±{half} 之内", "{change}, inside ±{half} of the median of {n}"),
    Message("{change}，超出 {n} 次的中位数 ±{half}", "{change}, outside ±{half} of the median of {n}"),
    Message("{change}，在公布值 {value} ±{half} 之内", "{change}, inside ±{half} of the published {value}"),
    Message("{change}，超出公布值 {value} ±{half}", "{change}, outside ±{half} of the published {value}"),
    Message("{n} 次的中位数 ±{half}", "±{half} of the median of {n}"),
    Message("公布值 {value} ±{half}", "±{half} of the published {value}"),
    Message(
        "该系列自身的波动（{why}）超过 {limit}：什么也判断不了",
        "the series' own noise, {why}, is above {limit}: nothing can be told from it",
    ),
    Message("已接受：新的基线从这里开始", "accepted: a new baseline begins here"),
    # A night's.
    Message("时间预算已用完", "the time budget is used up"),
    Message(
        "通常需要 {expected} s，而预算只剩 {left} s",
        "it takes {expected} s as a rule, and {left} s of the budget are left",
    ),
    Message(
        "E744 {command} 在 {limit} s 内没有结束；没有通知到任何人",
        "E744 {command} did not end within {limit} s; nobody was told",
    ),
    Message(
        "E744 {command} 无法启动：{said}（原文）；没有通知到任何人",
        "E744 {command} cannot be started: {said}; nobody was told",
    ),
    Message("E744 {command} 以 {code} 退出：{said}（原文）", "E744 {command} exited {code}: {said}"),
    Message(
        "{said}（原文）；已由 {n} 个运行重建，旧文件为 {file}",
        "{said}; made again from {n} runs, the old file is {file}",
    ),
    Message("{said}（原文）；运行本身已保存{more}", "{said}; the run itself is stored{more}"),
)
