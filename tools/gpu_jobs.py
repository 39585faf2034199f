"""The jobs of several ranks that tools/test-gpu starts on GPUs: claims, kills, NCCL's choices, benches."""

import dataclasses
import importlib.util
import itertools
import os
import pathlib
import re
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "bindings"))
from jobs import Job  # noqa: E402
from mps import shared_gpu  # noqa: E402

LOGS = ROOT / "build" / "test-logs"
PROGRAMS_FOLDER = ROOT / "tests" / "bindings" / "programs"
CLAIMS = [f"programs.{name}" for name in ("devices", "device_training", "collectives", "grouped",
                                          "grouped_gathers", "parts", "errors", "clt_k",
                                          "optimizer", "optimizer_groups", "optimizer_styles",
                                          "schedulers",
                                          "sparse", "adasum", "sync_batch_norm", "ddp", "process_sets",
                                          "process_group", "process_group_training", "policy",
                                          "horovod_names", "join", "captures")]
REPLICATED_CLAIMS = ["programs.fsdp"]  # On pairs of ranks: 4 have two shards, and two replicas of each.
# Several ranks on one GPU are an error to NCCL, unless each says that it is on a host of its own.
NCCL = {"NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1",
        "NCCL_MNNVL_ENABLE": "0", "NCCL_NVLS_ENABLE": "0"}
JAX_CLAIMS = ["programs.jax_collectives", "programs.jax_optax", "programs.jax_devices"]
# Ranks that share a GPU share its memory, too. Matrices are multiplied in float32, as on the CPU.
JAX = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest",
       "XLA_FLAGS": "--xla_gpu_autotune_level=0", "JAX_TRACEBACK_FILTERING": "off"}
LEAVE_S_MAX = 10.0
# Of the GPU's memory, for each rank: under MPS only.
SHORTAGE_LIMIT = "4G"
# As SCALECOM_ALLREDUCE_ALGORITHM and as NCCL's log has them.
ALGORITHMS = {"ring": "RING", "double_tree": "TREE"}


def say(text):
    print(f"test-gpu: {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where ranks work: each on a GPU of its own where there are as many, else they share, by MPS if it is
    there. devices: torch's names."""
    devices: tuple
    mps: dict = dataclasses.field(default_factory=dict)

    def is_shared(self, ranks):
        return len(self.devices) == 1 or ranks > len(self.devices)

    def environment(self, ranks):
        return {**NCCL, **self.mps} if self.is_shared(ranks) else {}

    def variables(self, rank, ranks):
        return {"NCCL_HOSTID": f"rank{rank}"} if self.is_shared(ranks) else {}

    def arguments(self, rank):
        return {"device": self.devices[rank % len(self.devices)]}


class JaxPlaces(Places):
    """JAX takes all that it sees: a rank sees its GPU only."""

    def variables(self, rank, ranks):
        variables = super().variables(rank, ranks)
        if len(self.devices) > 1:
            index = rank % len(self.devices)
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            variables["CUDA_VISIBLE_DEVICES"] = seen.split(",")[index] if seen else str(index)
        return variables

    def arguments(self, rank):
        return {}


def start_ranks(places, folder, ranks, program, arguments, collectives, environment):
    env = {**environment, "SCALECOM_CUDA_COLLECTIVES": collectives,
           "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "20", **places.environment(ranks)}
    return Job(folder, ranks, program, lambda rank: {**arguments, **places.arguments(rank)}, env=env,
               variables=lambda rank: places.variables(rank, ranks))


def modules_on(ranks, options):
    named = [f"programs.{name}" for name in options.claims]
    wanted = named or [*CLAIMS * (ranks < 4), *REPLICATED_CLAIMS]
    return [module for module in wanted if module not in REPLICATED_CLAIMS or ranks % 2 == 0]


class Claims:
    """A job of programs.claims:check_modules: the modules in one, since torch starts slowly."""

    def __init__(self, report, name, job, modules, places, options, environment, folder):
        """name: of the report's part. job: the number of ranks, and their collectives."""
        self._report, self._name, self._modules = report, name, modules
        ranks, collectives = job
        self._label = f"{ranks} ranks, {collectives}"
        self._limit_s = report.limit(options.limit)
        say(f"{', '.join(modules)}: {self._label}")
        self._begin = time.monotonic()
        self._job = start_ranks(places, folder, ranks, "programs.claims:check_modules",
                                {"modules": modules, "limit_s": self._limit_s}, collectives,
                                environment)

    def judge(self):
        """Waits for it, and counts what has become of it."""
        left_s = self._begin + self._limit_s + 10 - time.monotonic()
        outcome = self._job.outcome(max(left_s, 1.0))
        (LOGS / f"gpu-{self._name}-{self._label.replace(' ranks, ', '-')}.log").write_text(outcome.output)
        part = {"seconds": round(time.monotonic() - self._begin, 1), "claims": 0, "failed": {}}
        self._report.parts.setdefault(self._name, {})[self._label] = part
        silent = sorted(set(range(outcome.ranks)) - set(outcome.values))
        if silent:
            part["failed"] = {"no verdict": {rank: outcome.errors.get(rank, outcome.output[-3000:])
                                             for rank in silent}}
            self._report.failures.append(f"ranks {silent} of {self._label} gave no verdict")
        else:
            self._count(part, outcome.values)
        self._report.write()

    def _count(self, part, verdicts):
        for module in self._modules:
            for claim in verdicts[0][module]:
                problems = {rank: verdict[module][claim] for rank, verdict in verdicts.items()
                            if verdict[module].get(claim)}
                part["claims"] += 1
                self._report.count(f"{module}.{claim} on {self._label}", not problems)
                if problems:
                    part["failed"][f"{module}.{claim}"] = problems
        say(f"{self._label}: {part['claims']} claims, {len(part['failed'])} failed, {part['seconds']} s")
        for claim, problems in part["failed"].items():
            rank, problem = sorted(problems.items())[0]
            print(f"{claim}, ranks {sorted(problems)}: {problem.strip().splitlines()[-1][:300]}")


def run_claims(report, options, environment, folder):
    """The claims about torch, for each number of ranks over all collectives: one job after the other, or
    all at once."""
    jobs = []
    for job in itertools.product(options.ranks, options.collectives):
        modules = modules_on(job[0], options)
        if not modules or not report.has_time_for(f"claims on {job[0]} ranks, {job[1]}"):
            continue
        jobs.append(Claims(report, "ranks", job, modules, options.places, options, environment, folder))
        if not options.at_once:
            jobs.pop().judge()
    for job in jobs:
        job.judge()


def jax_places(options):
    return JaxPlaces(options.places.devices, options.places.mps)


def jax_environment(options, environment):
    return {**environment, **JAX, "JAX_PLATFORMS": "cpu" if options.device == "cpu" else "cuda,cpu"}


def run_jax(report, options, environment, folder):
    """The claims about JAX, which shares GPUs as torch does. All jobs at once: most of their time is a
    core's that compiles."""
    if importlib.util.find_spec("jax") is None:
        report.skips.append("jax is not installed")
        return
    if not report.has_time_for("the claims about jax"):
        return
    jobs = [Claims(report, "jax", job, JAX_CLAIMS + ["programs.jax_ends"] * (job[0] > 1), jax_places(options),
                   options, jax_environment(options, environment), folder)
            for job in itertools.product(options.ranks, options.collectives)]
    for job in jobs:
        job.judge()


def run_bench(report, name, ranks, collectives, places, options, environment, folder, limit_s):
    """(label, what rank 0 measured with {name}:measure of tools/bench/cuda, or None if it failed)."""
    label = f"{ranks} ranks, {collectives}"
    if not report.has_time_for(f"{name} on {label}"):
        return label, None
    search = {"PYTHONPATH": f"{ROOT / 'tools' / 'bench' / 'cuda'}:{environment['PYTHONPATH']}"}
    job = start_ranks(places, folder, ranks, f"{name}:measure",
                      {"rounds": options.rounds, "bytes_max": options.bytes_max},
                      collectives, {**environment, **search})
    outcome = job.outcome(report.limit(limit_s))
    is_good = len(outcome.values) == ranks
    report.count(f"{name}, {label}", is_good)
    if not is_good:
        report.write()
        print("\n".join([*outcome.errors.values(), outcome.output[-3000:]]))
        return label, None
    report.parts.setdefault(name, {})[label] = outcome.values[0]
    report.write()
    return label, outcome.values[0]


def run_jax_bench(report, collectives, options, environment, folder):
    label, value = run_bench(report, "jax_bench", 2, collectives, jax_places(options), options,
                             jax_environment(options, environment), folder, limit_s=100)
    if value:
        print(f"JAX on {value['device']}, {label}:")
        show_us(value["call_us"])


def show_us(figures):
    """By bytes, and by ways."""
    for size, ways in figures.items():
        print(f"{int(size):>12,} B  " + "  ".join(
            f"{way} {time['median']:,.1f} ({time['low']:,.1f} to {time['high']:,.1f})"
            for way, time in ways.items()))


def run_kills(report, collectives, options, environment, folder):
    """A rank of three is killed at work, or while NCCL connects: the others say who, in bounded time."""
    works = [("all-reduce of 16 MiB", 3, 0.05), ("ScaleCom steps", 3, 0.05)]
    if collectives == "nccl":
        works += [("all-reduce of 16 MiB", 0, delay) for delay in (0.1, 0.4, 0.8, 1.5)]
    for work, turns, delay in works:
        label = f"a killed rank in {work}{'' if turns else f', {delay} s after its begin'}, {collectives}"
        if not report.has_time_for(label):
            continue
        # By themselves: a killed process can take MPS with it.
        job = start_ranks(dataclasses.replace(options.places, mps={}), folder, 3,
                          "programs.kills:lose_a_rank_at_work",
                          {"victim": 1, "work": work, "turns": turns, "delay": delay}, collectives, environment)
        outcome = job.outcome(report.limit(60))
        problems = [f"ranks {sorted(outcome.values)} gave a verdict: {outcome.output[-2000:]}"
                    ] * (set(outcome.values) != {0, 2})
        seconds = {}
        for rank, value in outcome.values.items():
            seconds[rank] = round(value["left_at"] - value["killed_at"], 3)
            named = re.findall(r"rank (\d+) is lost", value["message"] or "")
            if set(named) != {"1"} or seconds[rank] > LEAVE_S_MAX:
                problems.append(f"rank {rank} after {seconds[rank]} s: {value['message']}")
        say(f"{label}: {problems or seconds}")
        report.count(label, not problems)
        report.parts.setdefault("kills", {})[label] = {"seconds": seconds, "problems": problems}
        report.write()


def run_shortage(report, collectives, options, environment, folder):
    """Two ranks on a device with little memory left: batches wait for each other's, and what cannot have
    any says what it needed."""
    label = f"little memory, {collectives}"
    if not report.has_time_for(label):
        return
    one = dataclasses.replace(options.places, devices=options.places.devices[:1])
    job = start_ranks(one, folder, 2, "programs.shortage:reduce", {}, collectives,
                      {**environment, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={SHORTAGE_LIMIT}"})
    outcome = job.outcome(report.limit(90))
    errors = {rank: message for rank, (_, message) in outcome.values.items()}
    problems = {"verdicts": outcome.errors} if len(errors) < 2 else {}
    if "waits for the memory of those before it" not in outcome.output:
        problems["no batch waited"] = outcome.output[-2000:]
    if not any("its residual takes 268435456 bytes on the device" in text for text in errors.values()):
        problems["the residual's need is not told"] = errors
    say(f"{label}: {problems or errors}")
    report.count(label, not problems)
    report.parts.setdefault("memory", {})[label] = {"errors": errors, "problems": problems}
    report.write()


def run_tuner(report, options, environment, folder):
    """NCCL's log tells of each all-reduce which algorithm it took: the one that was asked for."""
    for ours, nccls in ALGORITHMS.items():
        label = f"NCCL takes {ours}"
        if not report.has_time_for(label):
            continue
        job = start_ranks(options.places, folder, 2, "programs.tuning:reduce", {}, "nccl",
                          {**environment, "SCALECOM_ALLREDUCE_ALGORITHM": ours,
                           "NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,TUNING"})
        outcome = job.outcome(report.limit(60))
        (LOGS / f"gpu-tuner-{ours}.log").write_text(outcome.output)
        taken = re.findall(r"AllReduce: (\d+) Bytes -> Algo (\w+)", outcome.output)
        is_whole = {str(4 << 10), str(4 << 20)} <= {size for size, _ in taken}
        is_good = is_whole and {algorithm.upper() for _, algorithm in taken} == {nccls}
        report.count(label, is_good and len(outcome.values) == 2)
        report.parts.setdefault("tuner", {})[ours] = taken
        report.write()
        say(f"{label}: {taken}, ranks {sorted(outcome.values)} gave a verdict")
        if not is_good:
            print("\n".join([*outcome.errors.values(), *(line for line in outcome.output.splitlines()
                                                         if "uner" in line or "Algo" in line)][:40]))


def run_rank_bench(report, ranks, collectives, options, environment, folder):
    label, value = run_bench(report, "all_reduce_bench", ranks, collectives, options.places, options,
                             environment, folder, limit_s=150)
    if not value:
        return
    print(f"all-reduce, us on {label} (median, quartiles):")
    show_us(value["all_reduce_us"])
    print(f"host, us for a batch of 100 tensors of 40 KB: {value['host_us']}")
    print(f"health of 100 compressed tensors of 1 MB, us of a step: {value['health_us']}")
    print(f"gradients of 1,000 parameters by their bursts, ms: {value['bursts_ms']}")
    print(f"NCCL's call and a CUDA graph of it, us: {value.get('graph_us')}")
    for kind, found in value["coordinator"].items():
        report_coordinator(report, f"{kind}, {label}", found)


def report_coordinator(report, label, found):
    for tensors, times in found["batches"].items():
        print(f"coordinator, {label}, {tensors} tensors of 40 KB, us a batch: {times}")
    print(f"coordinator, {label}, batches of the most in a row, us a batch: {found['in_a_row']}")
    if "calls" not in found:
        return
    print(f"calls of CUDA a batch, {label}: {found['calls']}")
    if not found["calls"]:
        report.skips.append(f"the calls of a batch, {label}: torch.profiler has seen none")
        return
    report.count(f"no call that waits for the device, {label}: {found['waiting']}",
                 not found["waiting"])


def run_benches(report, options, environment, folder):
    """One rank has nothing to send: whatever the collectives, it is one job."""
    for ranks, collectives in [(1, options.collectives[0]), *((2, name) for name in options.collectives)]:
        run_rank_bench(report, ranks, collectives, options, environment, folder)


def run_jax_benches(report, options, environment, folder):
    if importlib.util.find_spec("jax"):
        for collectives in options.collectives:
            run_jax_bench(report, collectives, options, environment, folder)


def run_jobs(report, options, environment):
    """On options.places, which gets MPS here."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, shared_gpu() as sharing:
        folder = pathlib.Path(name)
        options.places = dataclasses.replace(options.places, mps=sharing)
        report.parts["mps"] = bool(sharing)
        for part in options.only:
            if part == "kills":
                for collectives in options.collectives:
                    run_kills(report, collectives, options, environment, folder)
            elif part == "memory" and sharing:
                for collectives in options.collectives:
                    run_shortage(report, collectives, options, environment, folder)
            elif part == "tuner" and "nccl" in options.collectives:
                run_tuner(report, options, environment, folder)
            elif part in RUNNERS:
                RUNNERS[part](report, options, environment, folder)


RUNNERS = {"ranks": run_claims, "jax": run_jax, "bench": run_benches, "jax-bench": run_jax_benches}
