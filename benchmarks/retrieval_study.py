"""What retrieval gains: the same network with it and without, at few patients, with the controls of a sceptic.

    python benchmarks/retrieval_study.py --hippocampus SOURCE --head-neck SOURCE --output runs/retrieval

For each set, number of training patients and seed, two networks train from scratch for the same minutes of one core,
the search and carrying of labels included: one without retrieval (and without its parameters), one with it. What a step
costs is measured once for each set, number of patients and network, by the process's own clock. The latter is tested
with the bank of its training patients, with a bank grown to all patients (no further training), with retrieval switched
off, with banks grown to fewer patients, with fewer neighbours, and with controls: the labels of its bank shuffled among
slices, neighbours drawn at random, those that lie as high in the body, and those that an oracle finds (`oracle.py`).
The neighbours' vote alone, without a network's opinion, is beside them, and a third network that has as many
parameters as the second and learns one vote for all slices in the neighbours' place. Test: whole volumes of other
patients. Differences, to the first network and to the second one's own weights without retrieval, are paired by
patient, a patient's score being the mean over seeds; the p-value is Wilcoxon's, of the former, corrected by Holm over a
set's rows. With a fusion that has nothing to learn (`vote_product`) the network without retrieval is that with it, to
the bit; one is trained, and its test with retrieval switched off is the former. Finished trials stand in the output
folder and are not run again. Writes result.json and gains.png and prints Markdown tables.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hippocampus_unet import read_log
from label_vote import HEIGHT
from torch import Tensor
from trials import start_trial, two_set_parser

from ragsam.api.index import index_run
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, Datalist, load_datalist, write_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json
from ragsam.metrics.significance import holm
from ragsam.metrics.statistics import mean_interval, paired_difference
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.supports import Supports
from ragsam.retrieval.bank import Bank
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run
from ragsam.training import csv_log as history

STEPS_PER_EPOCH = 10
#: The first has the bank to build and most neighbours to find.
TIMED_EPOCHS = 3
#: With twice that learning rate a network without retrieval does not get off the ground on head and neck.
SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"image_size": 64, "batch_size": 32, "precision": "bfloat16"},
    "openkbp_hn": {
        "image_size": 96,
        "spacing_mm": [6.0, 6.0],
        "batch_size": 12,
        "learning_rate": 0.0005,
        "precision": "bfloat16",
    },
}
#: What is trained: the network without retrieval, with it, and with a vote that is learnt once for all slices.
ARMS: dict[str, dict[str, Any]] = {
    "no retrieval": {"retrieval": False, "fusion": None},
    "retrieval": {},
    "learned constant": {"retrieval": False},
}
#: Fusions that have nothing to learn; with these a constant is learnt by another one.
UNLEARNT, LEARNT = ("vote_product",), "label_prior"
TESTS = ("own bank", "grown bank", "switched off", "shuffled labels", "random neighbours", "vote alone")
#: More tests: the own bank with fewer neighbours, with those that lie as high or whose labels overlap most with the
#: query's own, and banks grown to so many patients in all.
MORE_TESTS = (
    *("1 neighbour", "2 neighbours", "4 neighbours", "8 neighbours", "same height", "oracle neighbours"),
    *("grown to 5", "grown to 10", "grown to 20", "grown to 40"),
)


def chosen(
    data: Datalist, patients: int, seed: int, test_patients: int, tests: Sequence[str] = ()
) -> dict[str, Sequence[Case]]:
    """Return a split with so many training patients, drawn by the seed, and the first test patients.

    For each of the tests `grown to N` a section of its name has the patients beside the training's and the smaller
    tests'; `rest` has those that are left.
    """
    names = sorted({case.patient for case in data.section("training")})
    order = np.random.default_rng(seed).permutation(names).tolist()
    drawn = set(order[: patients or None])
    tested = sorted({case.patient for case in data.section("test")})[: test_patients or None]
    training = data.section("training")
    steps = [len(drawn), *(size for size in growth_steps(tests) if size > len(drawn))]
    grown = {f"grown to {size}": set(order[start:size]) for start, size in pairwise(steps)}
    return {
        **{test: [case for case in training if case.patient in more] for test, more in grown.items() if more},
        "training": [case for case in training if case.patient in drawn],
        "rest": [case for case in training if case.patient in set(order[steps[-1] :])],
        "validation": data.section("validation")[:1],  # nothing is chosen by it
        "test": [case for case in data.section("test") if case.patient in tested],
    }


def with_every_test(done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of the trials with retrieval, by set and number of patients, those of seeds that had every test.

    A curve over banks of other sizes is of the same networks at every point.
    """
    tests: dict[tuple[str, int], set[str]] = {}
    for trial in done:
        tests.setdefault((trial["set"], trial["patients"]), set()).update(trial["tests"])
    return [trial for trial in done if tests[trial["set"], trial["patients"]] == set(trial["tests"])]


def growth_steps(tests: Sequence[str]) -> list[int]:
    """Return to how many patients the tests grow a bank, the fewest first."""
    return sorted(int(test.split()[-1]) for test in tests if test.startswith("grown to "))


def with_constant(network: Segmenter) -> Segmenter:
    """Give a network one vote of its own for all slices, to be learnt in the place of the neighbours'."""
    shape = (network.num_classes + 1, network.image_size, network.image_size)
    network.constant = torch.nn.Parameter(torch.zeros(shape))

    def forward(image: Tensor, **options: Any) -> Tensor:
        vote = network.constant.softmax(0).expand(len(image), -1, -1, -1)
        return plain(image, **{**options, "supports": Supports.of_vote(vote, vote.new_ones(len(image)))})

    plain, network.forward = network.forward, forward
    return network


def run_trial(trial: dict[str, Any], datalist: Path, folder: Path) -> dict[str, Any]:
    """Train and test one network in this process, on one core; without `epochs` only time its first ones."""
    torch.set_num_threads(1)
    history.time = SimpleNamespace(monotonic=time.process_time)  # the log gives minutes of this process
    data = load_datalist(datalist)
    sections = chosen(data, trial["patients"], trial["seed"], trial["test_patients"], trial.get("tests", ()))
    write_datalist(folder / "datalist.json", data.card, sections)
    fusion = LEARNT if trial["arm"] == "learned constant" and trial["fusion"] in UNLEARNT else trial["fusion"]
    options = {**SETS[trial["set"]], "fusion": fusion, **ARMS[trial["arm"]], "seed": trial["seed"]}
    options["steps_per_epoch"] = STEPS_PER_EPOCH
    epochs, every = (trial["epochs"], trial["epochs"]) if "epochs" in trial else (TIMED_EPOCHS, 1)
    run = make_run(
        "sam_lora", folder / "datalist.json", folder / "run", {**options, "epochs": epochs, "validate_every": every}
    )
    run_config(run, "train", **network_of(trial["arm"]))
    log = read_log(run)
    seconds = [float(row["train_seconds"]) for row in log]
    if "epochs" not in trial:
        return {"seconds": seconds}
    result = {"steps": int(log[-1]["step"]), "minutes": seconds[-1] / 60}
    return {**result, "tests": run_tests(trial, data.card, run, folder, sections)}


def network_of(arm: str) -> dict[str, Any]:
    """Return what an arm overrides in a run's configs."""
    constant = {"network": {"_target_": "retrieval_study.with_constant", "network": "@network_def"}}
    return constant if arm == "learned constant" else {}


def affordable_epochs(seconds: Sequence[float], minutes: float) -> int:
    """Return how many epochs fit in so many minutes, of the seconds at which the first ones ended.

    The quickest of the later ones counts: what else the machine does makes an epoch slower, never quicker.
    """
    later = min(end - start for start, end in pairwise(seconds))
    return max(1, round((minutes * 60 - seconds[0]) / later) + 1)


def run_tests(
    trial: dict[str, Any], card: str, run: Path, folder: Path, sections: dict[str, Sequence[Case]]
) -> dict[str, Any]:
    """Segment the test patients in every way that the trial asks for, and return the cases' scores by way."""
    tests = {}
    banks = make_banks(trial["tests"], run, folder) if trial["arm"] == "retrieval" else {}
    for test in trial["tests"] if trial["arm"] == "retrieval" else ["switched off"]:
        overrides: dict[str, Any] = {"retrieval": test in banks, **network_of(trial["arm"])}
        if test in banks:
            overrides["bank"] = str(banks[test])
        if test[0].isdigit():
            overrides["neighbours"] = int(test.split()[0])
        if test == "oracle neighbours":
            found = {"_target_": "oracle.OracleRetriever", "cases": "@cases", "preparation": "@preparation"}
            overrides |= {f"retriever#{name}": value for name, value in found.items()}
        if test == "vote alone":
            voting = {"_target_": "ragsam.retrieval.voting.VotingNetwork", "num_classes": "$@card_def.num_classes"}
            overrides |= {"weights": None, "network_def": {**voting, "image_size": "@image_size"}}
            overrides["steered_by"] = "vote_product"
        predictions = folder / "predictions"
        run_config(run, "inference", output_dir=str(predictions), **overrides)
        metrics = evaluate_cases(pairs_from_cases(sections["test"], predictions), load_card(card))
        tests[test] = metrics["cases"]
        shutil.rmtree(predictions)
    return tests


def make_banks(tests: Sequence[str], run: Path, folder: Path) -> dict[str, Path]:
    """Make the bank of each test that looks into one."""
    own, _, _ = index_run(run)
    banks = {"own bank": own, "vote alone": own, "oracle neighbours": own}
    banks |= {test: own for test in tests if test[0].isdigit()}
    smaller, sections = own, load_datalist(folder / "datalist.json").sections
    grown = [(f"grown to {size}", f"grown to {size}") for size in growth_steps(tests)]
    for test, section in [*grown, ("grown bank", "rest")]:
        if test in tests:
            banks[test] = folder / test.replace(" ", "-")
            shutil.copytree(smaller, banks[test], dirs_exist_ok=True)
            if sections.get(section):
                index_run(run, banks[test], add=folder / "datalist.json", section=section)
            smaller = banks[test]
    bank = Bank.open(own)
    order = np.random.default_rng(0).permutation(len(bank))
    if "shuffled labels" in tests:
        annotated = None if bank.annotated is None else bank.annotated[order]
        altered = replace(bank, labels=np.asarray(bank.labels[order]), annotated=annotated, present=None)
        altered.save(folder / "shuffled")
        banks["shuffled labels"] = folder / "shuffled"
    if "random neighbours" in tests:
        replace(bank, descriptors=bank.descriptors[order], stored_scores=None).save(folder / "random")
        banks["random neighbours"] = folder / "random"
    if "same height" in tests:
        height = np.asarray(bank.descriptors).copy()
        height[:, :-HEIGHT] = 0
        height /= np.linalg.norm(height, axis=1, keepdims=True)
        replace(bank, descriptors=height, stored_scores=None).save(folder / "height")
        banks["same height"] = folder / "height"
    return banks


def scores(cases: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return Dice by organ and patient; a patient's volumes and seeds are averaged later."""
    table: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for organ, values in case["organs"].items():
            if values["dice"] is not None:
                table.setdefault(organ, {}).setdefault(case["patient"], []).append(values["dice"])
    return table


def summarise(done: Sequence[dict[str, Any]], data: str) -> list[dict[str, Any]]:
    """Return a row for each number of patients and test of a set: its Dice, and its gain over no retrieval.

    A test that only some seeds have had is compared with the same seeds' base.
    """
    rows = []
    for patients in dict.fromkeys(trial["patients"] for trial in done if trial["set"] == data):
        mine = [trial for trial in done if (trial["set"], trial["patients"]) == (data, patients)]
        seeds = {arm: {trial["seed"] for trial in mine if trial["arm"] == arm} for arm in ARMS}
        plain = "no retrieval" if seeds["no retrieval"] else "retrieval"
        shared = seeds[plain] & seeds["retrieval"]
        by_arm = {arm: [t for t in mine if t["arm"] == arm and t["seed"] in shared] for arm in ARMS}
        if not shared:
            continue
        base = _scores_of(by_arm[plain], "switched off")
        rows.append(
            {
                "patients": patients,
                "test": "trained without retrieval",
                "dice": mean_interval(base),
                **_effort(by_arm[plain]),
            }
        )
        had = dict.fromkeys(test for t in by_arm["retrieval"] for test in t["tests"])
        tests = [("retrieval", test, test) for test in had]
        if plain == "retrieval":
            tests.remove(("retrieval", "switched off", "switched off"))
        if by_arm["learned constant"]:
            tests.append(("learned constant", "switched off", "learned constant"))
        for arm, test, name in tests:
            tested = [t for t in by_arm[arm] if test in t["tests"]]
            alike = [t for t in by_arm[plain] if t["seed"] in {other["seed"] for other in tested}]
            table = _scores_of(tested, test)
            row = {"patients": patients, "test": name, "dice": mean_interval(table), **_effort(tested)}
            if plain != "retrieval" and test != "switched off" and "switched off" in tested[0]["tests"]:
                row["over_itself"] = paired_difference(table, _scores_of(tested, "switched off"))
            rows.append({**row, "gain": paired_difference(table, _scores_of(alike, "switched off"))})
    for index, p_value in holm({index: row["gain"]["p"] for index, row in enumerate(rows) if "gain" in row}).items():
        rows[index]["p"] = p_value
    return rows


def _scores_of(trials: Sequence[dict[str, Any]], test: str) -> dict[str, dict[str, list[float]]]:
    return scores([case for trial in trials for case in trial["tests"][test]])


def _effort(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: sum(trial[key] for trial in trials) / len(trials) for key in ("steps", "minutes")} | {
        "seeds": len(trials)
    }


def table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a set's rows as a Markdown table."""
    itself = any("over_itself" in row for row in rows)
    lines = [
        "| patients | tested | seeds | steps | minutes | Dice (95 % interval) | gain (95 % interval) | p | better |"
        + itself * " over itself switched off |",
        "|---|---|---|---|---|---|---|---|---|" + itself * "---|",
    ]
    for row in rows:
        low, high = row["dice"]["ci95"] or (float("nan"),) * 2
        gain, told = row.get("gain"), " | |"
        if gain:
            p_value = "" if row["p"] is None else f"{row['p']:.2g}"  # there is none where nothing differs
            told = f"{_difference(gain)} | {p_value} | {gain['wins']} of {gain['n']}"
        if itself:
            told += " | " + (_difference(row["over_itself"]) if "over_itself" in row else "")
        lines.append(
            f"| {row['patients'] or 'all'} | {row['test']} | {row['seeds']} | {row['steps']:.0f} "
            f"| {row['minutes']:.2f} | **{row['dice']['mean']:.3f}** ({low:.3f} to {high:.3f}) | {told} |"
        )
    return lines


def _difference(found: dict[str, Any]) -> str:
    less, more = found["ci95"] or (float("nan"),) * 2
    return f"{found['mean_difference']:+.3f} ({less:.3f} to {more:.3f})"


def draw_gains(
    path: Path,
    by_set: dict[str, list[dict[str, Any]]],
    grown_by_set: dict[str, list[dict[str, Any]]],
    everyone: dict[str, int],
) -> None:
    """Draw the gain of every test against the number of training patients, and that of a bank against its size.

    Args:
        path: of the picture.
        by_set: rows of `summarise` by set.
        grown_by_set: the same of trials that had every test, see `with_every_test`.
        everyone: patients of the bank grown to all, by set.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    has_growth = any(row["test"].startswith("grown to ") for rows in grown_by_set.values() for row in rows)
    size = (5.5 * len(by_set), 8 if has_growth else 4)
    figure, axes = pyplot.subplots(1 + has_growth, len(by_set), figsize=size, layout="constrained", squeeze=False)
    for column, (name, rows) in enumerate(by_set.items()):
        counts, axis = list(dict.fromkeys(row["patients"] for row in rows)), axes[0][column]
        for number, test in enumerate(TESTS[:-1]):
            mine = {row["patients"]: row["gain"] for row in rows if row["test"] == test and row["gain"]["ci95"]}
            if mine:
                _draw_line(axis, [counts.index(count) + 0.08 * (number - 2) for count in mine], mine.values(), test)
        axis.set_xticks(range(len(counts)), [str(count or "all") for count in counts])
        axis.set(title=name, xlabel="training patients")
        if not has_growth:
            continue
        grown = grown_by_set[name]
        for count in counts:
            sizes = growth(grown, count, everyone[name])
            if len(sizes) > 2:
                told = f"trained on {count} patient{'s' * (count != 1)}"
                _draw_line(axes[1][column], list(sizes), sizes.values(), told)
        sizes = sorted({size for count in counts for size in growth(grown, count, everyone[name])})
        axes[1][column].set(xlabel="patients in the bank", xscale="log")
        axes[1][column].set_xticks(sizes, [str(size) for size in sizes])
        axes[1][column].minorticks_off()
    for row in axes:
        for axis in row:
            axis.axhline(0, color="0.5", linewidth=1)
            axis.set_ylabel("Dice over the network trained without retrieval")
        row[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def growth(rows: Sequence[dict[str, Any]], patients: int, everyone: int) -> dict[int, dict[str, Any]]:
    """Return the gain of a network trained on so many patients by how many there are in its bank."""
    sizes = {"own bank": patients or everyone, "grown bank": everyone}
    gains = {}
    for row in rows:
        if row["patients"] == patients and "gain" in row and row["gain"]["ci95"]:
            name = row["test"]
            size = int(name.split()[-1]) if name.startswith("grown to ") else sizes.get(name)
            if size is not None:
                gains[size] = row["gain"]
    return dict(sorted(gains.items()))


def _draw_line(axis: Any, places: Sequence[float], gains: Iterable[dict[str, Any]], label: str) -> None:
    """Draw gains with their intervals as a line."""
    found = list(gains)
    means = np.array([gain["mean_difference"] for gain in found])
    bounds = np.array([gain["ci95"] for gain in found]).reshape(-1, 2).T
    axis.errorbar(places, means, np.abs(bounds - means), fmt="o-", capsize=3, label=label)


def read_arguments() -> argparse.Namespace:
    """Return what the command line asks for; `minutes` by set."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=[1, 2, 5, 10, 0], help="0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, nargs=2, default=[1.5, 5.0], help="of training, by set")
    parser.add_argument("--fusion", default="vote_product", help="of the network; another needs its own output")
    parser.add_argument("--constant", action="store_true", help="also train with a learned constant for neighbours")
    parser.add_argument("--test-patients", type=int, default=0, help="0: all")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), choices=TESTS + MORE_TESTS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials at once, each on one core")
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--datalist", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.minutes = dict(zip(SETS, args.minutes, strict=True))
    return args


def prepare_sets(args: argparse.Namespace, output: Path) -> dict[str, Path]:
    """Write the datalists of the sets that were given; return their paths."""
    datalists = {}
    if args.hippocampus:
        datalists["hippocampus"] = prepare("hippocampus", args.hippocampus, output / "hippocampus.json")
    if args.head_neck:
        path = output / "openkbp_hn.json"
        datalists["openkbp_hn"] = prepare("openkbp_hn", args.head_neck, path, validation=4, test=8)
    return datalists


def plan_trials(args: argparse.Namespace, datalists: dict[str, Path], output: Path) -> list[dict[str, Any]]:
    """Return the trials to run, each with the epochs that its minutes allow, by the time that an epoch takes here."""
    arms = [arm for arm in ARMS if args.constant or arm != "learned constant"]
    if args.fusion in UNLEARNT:
        arms = arms[1:]
    kinds = [(data, patients, arm) for data in datalists for patients in args.patients for arm in arms]
    epochs = {}
    for data, patients, arm in kinds:  # one at a time: trials beside each other take from each other's speed
        name = f"{data}-{patients}-{arm.replace(' ', '-')}-timing"
        timing = {"set": data, "patients": patients, "arm": arm, "seed": 0, "test_patients": 1}
        timing["fusion"] = args.fusion
        told = start_trial(__file__, timing, datalists[data], output / name)["seconds"]
        epochs[data, patients, arm] = affordable_epochs(told, args.minutes[data])
    same = {"test_patients": args.test_patients, "tests": args.tests, "fusion": args.fusion}
    return [
        {"set": data, "patients": patients, "arm": arm, "seed": seed, "epochs": epochs[data, patients, arm], **same}
        for seed in args.seeds
        for data, patients, arm in kinds
    ]


def start(trial: dict[str, Any], datalist: Path, output: Path) -> dict[str, Any]:
    """Run a trial in a process of its own, and tell its mean Dice by test; return its result."""
    name = f"{trial['set']}-{trial['patients']}-{trial['arm'].replace(' ', '-')}-{trial['seed']}"
    done = start_trial(__file__, trial, datalist, output / name)
    means = {test: f"{mean_interval(scores(cases))['mean']:.4f}" for test, cases in done["tests"].items()}
    sys.stderr.write(f"{name}: {means}, {done['steps']} steps\n")
    return done


def write_results(done: list[dict[str, Any]], datalists: dict[str, Path], output: Path, *, tested: int) -> None:
    """Print the tables and write result.json and gains.png."""
    by_set = {data: summarise(done, data) for data in datalists}
    lines = [line for data, rows in by_set.items() for line in ("", data, "", *table_lines(rows))]
    where = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    lines.append(f"\n{date.today()}; {tested or 'all'} test patients; {where}")
    sys.stdout.write("\n".join(lines) + "\n")
    everyone = {}
    for data, path in datalists.items():
        everyone[data] = len({case.patient for case in load_datalist(path).section("training")})
    grown_by_set = {data: summarise(with_every_test(done), data) for data in datalists}
    draw_gains(output / "gains.png", by_set, grown_by_set, everyone)
    write_json_atomic(output / "result.json", {"table": lines, "rows": by_set})


def main() -> None:
    """Run the study."""
    args = read_arguments()
    logging.basicConfig(level=logging.WARNING)
    if args.trial:
        result = run_trial(read_json(args.trial / "trial.json"), args.datalist, args.trial)
        write_json_atomic(args.trial / "result.json", result)
        return
    output = args.output.absolute()
    datalists = prepare_sets(args, output)
    trials = plan_trials(args, datalists, output)
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda trial: start(trial, datalists[trial["set"]], output), trials))
    write_results(done, datalists, output, tested=args.test_patients)


if __name__ == "__main__":
    main()
