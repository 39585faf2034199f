"""A rank of tools/experiments/accuracy: takes one group of jobs after another, and adds their rows to
the table."""

import json
import pathlib
import sys
import time

import torch

import harness
import tasks


def take(folder, count):
    """The place of the next group that no set of ranks has taken; None where there is none."""
    for place in range(count):
        try:
            (folder / f"{place}.taken").open("x").close()
            return place
        except FileExistsError:
            pass
    return None


def rows_of(training, seconds):
    """A row of the table for each seed. Every rank calls it: the tests are reductions."""
    job, runs = training.job, training.runs
    columns = ("model", "method", "rate", "rates", "beta", "warmup_share", "batch_factor", "ranks")
    return [{**{column: job[column] for column in columns}, "seed": seed, "epochs": job["epochs"],
             "batch": job["batch"], "optimizer": job["optimizer"], "lr": round(job["lr"], 6),
             "steps": job["steps"], "parameters": len(run.flat), "measure": run.task.measure,
             "value": round(run.test(), 5),
             "bytes_per_step": round(training.bytes_sent / job["steps"] / len(runs)),
             "seconds": round(seconds, 1), "device": run.device.type}
            for seed, run in zip(job["seeds"], runs)]


def train(jobs, folder_of_data, device, loaded):
    """Trains jobs side by side, and returns their rows."""
    import training
    model = jobs[0]["model"]
    if model not in loaded:
        loaded[model] = tasks.TASKS[model](folder_of_data, device)
    for job in jobs:
        job["steps"] = min(job["steps_max"],
                           job["epochs"] * (loaded[model].train_count // job["batch"]))
        job["warmup_steps"] = int(job["warmup_share"] * job["steps"])
    begin = time.perf_counter()
    trainings = training.train(jobs, loaded[model], device)
    seconds = time.perf_counter() - begin
    return [row for each in trainings for row in rows_of(each, seconds)]


def main():
    folder, folder_of_data, table = map(pathlib.Path, sys.argv[1:4])
    device = sys.argv[4]
    import scalecom.torch as hvd
    hvd.init()
    torch.set_num_threads(1 if device == "cuda" else max(1, harness.cores() // hvd.local_size()))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    store = hvd.broadcast_object(str(folder / f"store.{time.monotonic_ns()}"), name="store")
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=hvd.rank(),
                                         world_size=hvd.size())
    groups = json.loads((folder / "jobs.json").read_text())
    loaded = {}
    while True:
        mine = take(folder, len(groups)) if hvd.rank() == 0 else None
        place = hvd.broadcast_object(mine, name="next jobs")
        if place is None:
            break
        rows = train(groups[place], folder_of_data, device, loaded)
        if hvd.rank() == 0:
            harness.append_rows(table, rows)
            harness.say("\n".join(f"{row['model']} {row['method']} {row['rate']} {row['rates']} "
                                  f"beta {row['beta']} batch {row['batch']} {row['optimizer']} "
                                  f"{row['lr']} seed {row['seed']}: {row['measure']} "
                                  f"{row['value']}, {row['seconds']} s" for row in rows))
    torch.distributed.destroy_process_group()
    hvd.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        tasks.prepare(pathlib.Path(sys.argv[2]))
    else:
        main()
