"""The engines, behind one verb: step(micro-batches) → loss and gradient norm of one optimizer step.

DeepSpeed's and torch's are here, our own is native.py. None ever stands in for another, and what one cannot
do it refuses.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

import job as jobs
import torch
from clip import TowerLayer
from device import Stopwatch
from llama import Layer, num_parameters
from torch import nn

if TYPE_CHECKING:
    from data import Batch
    from device import Device
    from native import NativeEngine

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

Norm = Union[None, float, torch.Tensor]
# Tensors stay on the device: reading one waits for it, and the caller does that outside the timed region.
StepResult = Tuple[torch.Tensor, Norm]


class EngineError(RuntimeError):
    """The engine cannot do what the job asks for."""


def make_engine(
    job: jobs.Job, device: Device, build: Callable[[], nn.Module]
) -> Union[DeepSpeedEngine, DdpEngine, NativeEngine]:
    """`build` makes the model; it is called where the engine wants the parameters to be born.

    Raises EngineError for what engine, torch or device cannot do.
    """
    device.set_tf32(job.precision.compute_dtype == "tf32")
    check_tf32(job, device)
    if job.engine == "native":
        from native import NativeEngine

        return NativeEngine(job, device)
    return DeepSpeedEngine(job, device, build) if job.engine == "deepspeed" else DdpEngine(job, device, build)


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0–3 with torch's AdamW: DeepSpeed's own optimizers are C++ that it would compile at
    run time.
    """

    def __init__(self, job: jobs.Job, device: Device, build: Callable[[], nn.Module]) -> None:
        deepspeed = import_deepspeed()
        if job.precision.mechanism == "autocast":
            raise EngineError("deepspeed: precision is the engine's, mechanism autocast is for ddp")
        config = deepspeed_config(job)
        deepspeed.init_distributed(dist_backend=job.device.backend, auto_mpi_discovery=False, verbose=False)
        with contextlib.ExitStack() as stack:
            if job.zero.stage == 3:
                # No dtype=: DeepSpeed 0.19 reads it wrongly and makes bfloat16 of float32 on a CPU. From
                # the config it is right.
                stack.enter_context(deepspeed.zero.Init(config_dict_or_path=config))
            model = build()
        if job.zero.stage != 3:
            model.to(device.device)
        optimizer = make_optimizer(job.optimizer, model, device)
        self._groups = optimizer.param_groups  # DeepSpeed steps this very optimizer
        self._fused = bool(optimizer.defaults.get("fused"))
        if job.zero.stage == 3:
            gather_by_layer(deepspeed, model)
        self.model = model
        self._device = device
        self._sequence_length = job.batch.sequence_length
        self._engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._norm: Norm = None
        self._scale: Optional[float] = None
        self._forward = Stopwatch(device)
        self._gathers = job.zero.stage == 3
        if job.zero.stage == 0 and job.precision.compute_dtype in ("fp32", "tf32"):
            # The one case in which DeepSpeed works out the norm and drops it.
            self._engine.clip_fp32_gradients = self._clip

    def found(self) -> Dict[str, Any]:
        """What DeepSpeed itself says that it runs, for the `ready` record."""
        return {
            "zero_stage": int(self._engine.zero_optimization_stage()),
            "compute_dtype": dtype_name(next(self.model.parameters()).dtype, tf32=self._device.tf32),
            "micro_batch_size": int(self._engine.train_micro_batch_size_per_gpu()),
            "gradient_accumulation_steps": int(self._engine.gradient_accumulation_steps()),
            "loss_scaling": "dynamic" if self._engine.fp16_enabled() else "none",
            "fused_optimizer": self._fused,
            **model_facts(self.model, self._sequence_length, self._device),
        }

    def step(self, batches: Iterable[Batch]) -> StepResult:
        engine, losses = self._engine, []
        self._scale = self._loss_scale()  # before the step changes it
        for batch in batches:
            with self._forward:
                loss = engine(*batch)
            engine.backward(loss)
            engine.step()  # updates at the last micro-batch only: DeepSpeed counts them
            losses.append(loss.detach())
        norm = engine.get_global_grad_norm()
        return mean(losses), self._norm if norm is None else norm

    def step_facts(self) -> Dict[str, Any]:
        """More about the last step, to be asked outside of its timed region. How long it waited for the other
        ranks is null: DeepSpeed would stop at every collective to tell.
        """
        took_s = self._forward.read_s()
        # ZeRO-3 gathers weights from the others in the middle of it: then it is not this rank's own time.
        facts: Dict[str, Any] = {"comm_wait_s": None, "forward_s": None if self._gathers else took_s}
        if self._scale is not None:
            facts.update(loss_scale=self._scale, updated=bool(self._engine.was_step_applied()))
        return facts

    def _loss_scale(self) -> Optional[float]:
        return float(self._engine.optimizer.loss_scale) if self._engine.fp16_enabled() else None

    def _clip(self) -> None:
        from deepspeed.runtime.utils import clip_grad_norm_

        engine = self._engine
        self._norm = clip_grad_norm_(
            parameters=self.model.parameters(), max_norm=engine.gradient_clipping(), mpu=engine.mpu
        )

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self._groups, rate)

    def inference(self) -> Any:
        """What the model's forward is called within when nothing is trained."""
        return contextlib.nullcontext()


class DdpEngine:
    """torch's DistributedDataParallel: whole model and optimizer on every rank."""

    def __init__(self, job: jobs.Job, device: Device, build: Callable[[], nn.Module]) -> None:
        if job.precision.mechanism == "engine":
            raise EngineError("ddp: has no precision of its own, the mechanism must be autocast")
        self.model = build().to(device.device)
        indices = None if device.is_host else [device.device.index]
        self._ddp = nn.parallel.DistributedDataParallel(
            self.model, device_ids=indices, gradient_as_bucket_view=True
        )
        self._optimizer = make_optimizer(job.optimizer, self.model, device)
        self._parameters = learning(self.model)
        self._clipping = job.optimizer.gradient_clipping
        self._accumulation = job.batch.gradient_accumulation_steps
        dtype = DTYPES[job.precision.compute_dtype]
        self._scaler = None
        if dtype is torch.float16:
            self._scaler = LossScaler(device.device, window=job.precision.loss_scale_window)
        self._facts: Dict[str, Any] = {}
        self._ddp._set_ddp_runtime_logging_sample_rate(1)  # its clock readings, of every step
        self._device = device
        self._sequence_length = job.batch.sequence_length
        self._autocast: Callable[[], Any] = contextlib.nullcontext
        self._dtype = next(self.model.parameters()).dtype
        self._micro_batch_size = job.batch.micro_batch_size
        if job.precision.mechanism == "autocast":
            self._autocast = lambda: torch.autocast(device.type, dtype=dtype)
            self._dtype = probe_autocast(device, dtype)

    def found(self) -> Dict[str, Any]:
        """What runs, for the `ready` record: nothing is sharded; the dtype is the one autocast gave."""
        return {
            "zero_stage": 0,
            "compute_dtype": dtype_name(self._dtype, tf32=self._device.tf32),
            "micro_batch_size": self._micro_batch_size,
            "gradient_accumulation_steps": self._accumulation,
            "loss_scaling": "dynamic" if self._scaler else "none",
            "fused_optimizer": bool(self._optimizer.defaults.get("fused")),
            **model_facts(self.model, self._sequence_length, self._device),
        }

    def step(self, batches: Iterable[Batch]) -> StepResult:
        losses = []
        for number, batch in enumerate(batches, start=1):
            last = number == self._accumulation
            with contextlib.nullcontext() if last else self._ddp.no_sync():
                with self._autocast():
                    loss = self._ddp(*batch)
                losses.append(loss.detach())
                scale = self._scaler.scale if self._scaler else 1.0
                (loss * (scale / self._accumulation)).backward()
        norm = self._update()
        return mean(losses), norm

    def set_learning_rate(self, rate: float) -> None:
        set_rate(self._optimizer.param_groups, rate)

    def inference(self) -> Any:
        """What the model's forward is called within when nothing is trained."""
        return self._autocast()

    def step_facts(self) -> Dict[str, Any]:
        """More about the last step, to be asked outside of its timed region.

        `comm_wait_s` is how long backward, with nothing left to compute, waited for the sum of the gradients:
        for the network and for slower ranks. Null where torch has no clock for the device.
        """
        return {"comm_wait_s": self._comm_wait_s(), **self._facts}

    def _comm_wait_s(self) -> Optional[float]:
        self._ddp.logger.set_runtime_stats_and_log()  # else the next forward does it
        told_ns = self._ddp._get_ddp_logging_data()
        whole_ns = told_ns.get("backward_comm_time", 0)
        return (whole_ns - told_ns["backward_compute_comm_overlap_time"]) / 1e9 if whole_ns > 0 else None

    def _update(self) -> Norm:
        scale = self._scaler.scale if self._scaler else None
        finite = self._scaler.unscale(self._parameters) if self._scaler else True
        norm: Norm = None
        if finite and self._clipping > 0:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clipping)
        if finite:
            self._optimizer.step()
        if scale is not None:
            self._facts = {"loss_scale": scale, "updated": finite}
        self._optimizer.zero_grad(set_to_none=False)  # the gradients are views into DDP's buckets
        return norm


class LossScaler:
    """Dynamic loss scale on any device: halved after an overflow, doubled after `window` good steps, 1000
    where that is 0 (arXiv:1710.03740).

    torch's own GradScaler exists per device type and not for all of them.
    """

    def __init__(self, device: torch.device, *, scale: float = 2.0**16, window: int = 0) -> None:
        self.scale = scale
        self._window = window or 1000
        self._good = 0
        self._device = device

    def unscale(self, parameters: Any) -> bool:
        """Divides the gradients by the scale. False when one is not finite; the gradients are reduced, so
        all ranks decide alike.
        """
        total = torch.zeros((), device=self._device)
        for parameter in parameters:
            parameter.grad.div_(self.scale)
            total += parameter.grad.sum()  # one inf or NaN makes the sum so
        finite = bool(torch.isfinite(total))
        self.adjust(finite)
        return finite

    def adjust(self, finite: bool) -> None:
        """After a step that was taken, or skipped because something was not finite."""
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2.0, 1.0)
        elif self._good % self._window == 0:
            self.scale *= 2.0


def import_deepspeed() -> Any:
    """DeepSpeed with its run-time C++ compilation turned off. Raises EngineError when it is not installed."""
    try:
        import deepspeed
    except ImportError as error:
        raise EngineError("engine deepspeed: {}".format(error)) from error
    # Compiled with a C++ compiler at the first init_distributed on a CPU, nearly a minute; gloo does the
    # same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def deepspeed_config(job: jobs.Job) -> Dict[str, Any]:
    zero = {name: getattr(job.zero, name) for name in jobs.Zero.__dataclass_fields__}
    if job.zero.stage != 3:
        zero = {name: value for name, value in zero.items() if not name.startswith("stage3_")}
    config: Dict[str, Any] = {
        "train_batch_size": job.batch.global_batch_size,
        "train_micro_batch_size_per_gpu": job.batch.micro_batch_size,
        "gradient_accumulation_steps": job.batch.gradient_accumulation_steps,
        "gradient_clipping": job.optimizer.gradient_clipping,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,  # no number is read from its log
        "wall_clock_breakdown": False,
    }
    if job.precision.compute_dtype not in ("fp32", "tf32"):
        config[job.precision.compute_dtype] = {"enabled": True}
    if job.precision.loss_scale_window:
        config[job.precision.compute_dtype]["loss_scale_window"] = job.precision.loss_scale_window
    return config


def gather_by_layer(deepspeed: Any, model: nn.Module) -> None:
    """ZeRO-3 gathers a whole layer at once instead of each of its nine weights: one collective and two
    hooks, not nine and twenty.

    The memory it costs is one layer's weights. DeepSpeed before 0.14 cannot, and gathers weight by weight.
    """
    mark = getattr(deepspeed.utils, "set_z3_leaf_modules", None)
    if mark is not None:
        kinds = [kind for kind in (Layer, TowerLayer) if any(isinstance(m, kind) for m in model.modules())]
        mark(model, kinds)


def make_optimizer(optimizer: jobs.Optimizer, model: nn.Module, device: Device) -> torch.optim.Optimizer:
    settings: Dict[str, Any] = {
        "lr": optimizer.learning_rate,
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }
    if fused_works(device):
        settings["fused"] = True
    return torch.optim.AdamW(learning(model), **settings)


def fused_works(device: Device) -> bool:
    """Whether AdamW in one pass runs here: the same arithmetic, without the copies of all weights that
    torch's default makes. Tried on one number, because a torch may offer what its device has no kernel for.
    """
    one = nn.Parameter(torch.ones(1, device=device.device))
    one.grad = torch.ones_like(one)
    try:
        torch.optim.AdamW([one], fused=True).step()
    except (RuntimeError, TypeError):
        return False
    return True


def learning(model: nn.Module) -> List[nn.Parameter]:
    """The parameters that training changes; a stage may leave the others as they are."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def set_rate(groups: List[Dict[str, Any]], rate: float) -> None:
    for group in groups:
        group["lr"] = rate


def probe_autocast(device: Device, dtype: torch.dtype) -> torch.dtype:
    """The dtype that autocast computes in. Raises EngineError when it is not the planned one: for some, torch
    only warns and computes in float32.
    """
    one = torch.ones(1, 1, device=device.device)
    with torch.autocast(device.type, dtype=dtype):
        found = torch.mm(one, one).dtype
    if found is not dtype:
        raise EngineError("autocast to {} gives {} on {}".format(dtype, found, device.type))
    return found


def check_tf32(job: jobs.Job, device: Device) -> None:
    """Raises EngineError unless float32 products are what was planned: exact, or rounded to TF32."""
    wanted = job.precision.compute_dtype == "tf32"
    if device.tf32 is None and wanted:
        raise EngineError("tf32: torch {} has no switch for it on {}".format(torch.__version__, device.type))
    if bool(device.tf32) != wanted:
        raise EngineError("tf32 is {} on {} and cannot be changed".format(device.tf32, device.type))


def model_facts(model: nn.Module, sequence_length: int, device: Device) -> Dict[str, Any]:
    """What the model that stands is and costs, for the `ready` record."""
    flops = getattr(model, "flops_per_token", None)
    language = getattr(model, "language_model", model)
    return {
        "num_parameters": num_parameters(model),
        "num_embedding_parameters": num_parameters(language.model.embed_tokens),
        "recompute": "full" if language.model.recompute else "none",
        "flops_per_token": flops(sequence_length) if flops else None,
        **module_facts(model, device),
    }


def module_facts(model: nn.Module, device: Device) -> Dict[str, Any]:
    modules = list(model.modules())
    return {
        "attention": "+".join(sorted({m.kernel for m in modules if hasattr(m, "kernel")})),
        "compiled": any(getattr(m, "_compiled_call_impl", None) is not None for m in modules),
        "tf32": device.tf32,
    }


def dtype_name(dtype: torch.dtype, *, tf32: Optional[bool] = False) -> str:
    """The contract's word for a torch dtype, torch's own where it has none. Float32 with products rounded to
    TF32 is not called fp32.
    """
    if tf32 and dtype is torch.float32:
        return "tf32"
    return next((name for name, one in DTYPES.items() if one is dtype), str(dtype))


def mean(losses: Any) -> torch.Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
