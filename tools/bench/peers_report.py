"""What tools/bench/peers makes of its rounds: best settings, ratios, tables. Pure functions."""

import csv
import statistics

KIB = 1024


def size_name(nbytes):
    for unit, name in ((KIB ** 2, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes} B"


def figure_names(sizes, loop_bytes_max, burst):
    """The rows of the table: figure of peers_worker.py -> what it says."""
    names = {}
    for nbytes in sizes:
        if nbytes <= loop_bytes_max:
            names[f"{nbytes}"] = f"{size_name(nbytes)}, blocking loop: median"
            names[f"{nbytes}.p99"] = f"{size_name(nbytes)}, blocking loop: p99"
        else:
            names[f"{nbytes}"] = size_name(nbytes)
    if burst:
        count, nbytes = burst
        for figure, how in (("burst", "submitted together"), ("burst_group", "in one grouped call")):
            names[figure] = f"{count} x {size_name(nbytes)} {how}"
            names[f"{figure}.submit"] = f"{count} x {size_name(nbytes)} {how}: submitting"
        names["burst_fused"] = f"the same bytes in one all-reduce of {size_name(count * nbytes)}"
    return names


# What one figure is compared with where scalecom has none of its own: it fuses a group itself.
BASELINES = {"burst_fused": "burst_group"}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(rounds, figures, reference="scalecom"):
    """{figure: {library: summary}} of {library: {setting: [figures of each round]}}.

    A library's setting is chosen for each figure by the smallest median. `times_us` and `ratio`
    (the library's time over the reference's of the same round) are spreads over the rounds; a
    library without the figure is absent.
    """
    summary = {}
    for figure in figures:
        summary[figure] = {}
        baseline = [results[BASELINES.get(figure, figure)]
                    for results in next(iter(rounds[reference].values()))]
        for library, settings in rounds.items():
            times = {setting: [results[figure] for results in results_of_rounds]
                     for setting, results_of_rounds in settings.items()
                     if results_of_rounds and figure in results_of_rounds[0]}
            if not times:
                continue
            best = min(times, key=lambda setting: statistics.median(times[setting]))
            ratios = [mine / base for mine, base in zip(times[best], baseline)]
            summary[figure][library] = {"setting": best, "times_us": spread(times[best]),
                                        "ratio": spread(ratios)}
    return summary


def _number(value):
    """Three digits, thousands with commas."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread_text(values):
    return (f"{_number(values['median'])} "
            f"({_number(values['min'])} to {_number(values['max'])})")


def markdown(summary, names, titles, reference="scalecom"):
    """A row a figure, a column a library, each with its ratio to the reference."""
    others = [library for library in titles if library != reference]
    head = ["us, median (min to max)", titles[reference],
            *(f"{titles[library]} | times" for library in others)]
    lines = [f"| {' | '.join(head)} |", "|---" * (2 + 2 * len(others)) + "|"]
    for figure, name in names.items():
        row = summary[figure]
        if not row:
            continue
        cells = [name, _spread_text(row[reference]["times_us"]) if reference in row else ""]
        for library in others:
            got = row.get(library)
            cells += [_spread_text(got[key]) if got else "" for key in ("times_us", "ratio")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings_text(summary, names, titles):
    """For each library with several settings, which one its figures come from."""
    lines = []
    for library, title in titles.items():
        chosen = {}
        for figure in names:
            if library in summary[figure]:
                chosen.setdefault(summary[figure][library]["setting"], []).append(names[figure])
        if len(chosen) == 1:
            lines.append(f"{title}: {next(iter(chosen))}.")
        elif chosen:
            parts = [f"{setting} for {'; '.join(figures)}" for setting, figures in chosen.items()]
            lines.append(f"{title}: " + ". ".join(parts) + ".")
    return "\n".join(lines)


def write_csv(path, summary, names, titles):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "library", "setting", "median_us", "min_us", "max_us",
                         "ratio_median", "ratio_min", "ratio_max"])
        for figure, name in names.items():
            for library, got in summary[figure].items():
                writer.writerow([name, titles[library], got["setting"], *got["times_us"].values(),
                                 *got["ratio"].values()])
