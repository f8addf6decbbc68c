"""The command line: `ragsam COMMAND ...`. Thin: each command reads its arguments and calls one job."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ragsam.console.malloc import keep_freed_memory
from ragsam.errors import InputError

# Everything heavy is imported by the command that needs it: `ragsam --help` answers at once.


def _demo(args: argparse.Namespace) -> None:
    from ragsam.commands.demo import run_demo
    from ragsam.runs.options import parse_knob

    result = run_demo(args.output, datalist=args.data, **dict(parse_knob(text) for text in args.set))
    for name, how in (("without", "with retrieval switched off"), ("with", "with retrieval")):
        _say(f"mean Dice {how}: {result[name]['mean']:.4f} (n = {result[name]['n']} patients)")
    _say(
        f"took {sum(result['seconds'].values()):.0f} s: "
        + ", ".join(f"{k} {v:.0f}" for k, v in result["seconds"].items())
    )
    _say(f"picture: {result['picture']}")
    _say(f"report: {result['report']}")


def _cards(args: argparse.Namespace) -> None:
    from ragsam.data.cards.listing import card_page, cards_table
    from ragsam.data.cards.load import list_cards, load_card

    if args.card is None:
        _say(cards_table([load_card(name) for name in list_cards()]))
    else:
        _say(card_page(load_card(args.card)))


def _prepare(args: argparse.Namespace) -> None:
    from ragsam.data.datalist import load_datalist
    from ragsam.data.preparation.prepare import prepare

    path = prepare(
        args.card,
        args.source,
        args.output,
        layout=args.layout,
        seed=args.seed,
        validation=args.validation,
        test=args.test,
        folds=args.folds,
        fold=args.fold,
        subjects=args.patients,
        series=args.series,
    )
    for name, cases in load_datalist(path).sections.items():
        _say(f"{name}: {len(cases)} volumes of {len({case.patient for case in cases})} patients")
    _say(f"next: ragsam train sam_lora --data {path} --output RUN")


def _check(args: argparse.Namespace) -> int:
    from ragsam.commands.check import PAGE_NAME, check_data

    start = time.monotonic()
    found = check_data(args.datalist, card=args.card, output=args.output, summary_path=args.json, jobs=args.jobs)
    seconds = time.monotonic() - start
    for line in (*found["faults"], *(f"warning: {line}" for line in found["warnings"])):
        sys.stderr.write(f"ragsam: {line}\n")
    for line in found["notes"]:
        _say(f"note: {line}")
    counts = ", ".join(f"{len(found[kind])} {kind}" for kind in ("faults", "warnings", "notes"))
    _say(f"checked: {found['n_cases']} volumes of {found['n_patients']} patients in {seconds:.1f} s, {counts}")
    if args.output:
        _say(f"page: {args.output / PAGE_NAME}")
    if args.json:
        _say(f"summary: {args.json}")
    return 2 if found["faults"] else 0


def _train(args: argparse.Namespace) -> None:
    from ragsam.api.train import train_run
    from ragsam.report.training import CURVES_NAME, read_log, training_table
    from ragsam.runs.options import parse_knob
    from ragsam.runs.recipes import recipe

    knobs = (recipe(args.recipe) if args.recipe else {}) | dict(parse_knob(text) for text in args.set)
    if args.fit_batch:
        knobs["batch_size"] = _fitting_batch(args, knobs)
    if args.check:
        _try(args, knobs)
        return
    if args.folds is not None:
        _train_folds(args, knobs)
        return
    run = train_run(args.bundle, args.data, args.output, knobs, resume=args.resume)
    for line in training_table(read_log(run / "log.csv")):
        _say(line)
    _say(f"run: {run}")
    _say(f"curves: {run / CURVES_NAME}")
    _say(f"next: ragsam index {run}")


def _fitting_batch(args: argparse.Namespace, knobs: dict[str, Any]) -> int:
    from ragsam.commands.fit_batch import largest_batch

    if args.resume:
        raise InputError("--fit-batch: not with --resume; a training goes on with its own batch_size")
    size = largest_batch(args.bundle, args.data, args.output, knobs)
    _say(f"batch_size: {size}, the largest power of two that the memory holds")
    return size


def _try(args: argparse.Namespace, knobs: dict[str, Any]) -> None:
    from ragsam.commands.try_training import estimate_lines, try_training

    if args.resume or args.folds is not None:
        raise InputError("--check: not with --resume or --folds; try one training that is not begun")
    for line in estimate_lines(try_training(args.bundle, args.data, args.output, knobs)):
        _say(line)


def _train_folds(args: argparse.Namespace, knobs: dict[str, Any]) -> None:
    from ragsam.commands.cross_validate import cross_validate

    metrics = cross_validate(args.bundle, args.data, args.output, knobs, folds=args.folds, resume=args.resume)
    dice = metrics["summary"]["mean"]["dice"]
    if dice["mean"] is not None:
        _say(f"mean Dice {dice['mean']:.4f} (n = {dice['n']} patients, each by the run that never saw them)")
    _say(f"report: {args.output / 'evaluation' / 'report.html'}")
    others = " ".join(str(args.output / f"fold-{fold}") for fold in range(1, args.folds))
    _say(f"next: ragsam segment {args.output / 'fold-0'} INPUT --output DIR --ensemble {others}")


def _index(args: argparse.Namespace) -> None:
    if args.remove:
        _remove(args)
        return
    from ragsam.api.index import index_run
    from ragsam.runs.options import parse_knob

    if args.section and not (args.add or args.data):
        raise InputError("--section: of the datalist to add; name one with --add")
    if args.data and (args.run or args.add):
        raise InputError("--data: makes a bank without a RUN; cases beside those of a bank are named with --add")
    if args.set and not args.data:
        raise InputError("--set: only with --data; slices are prepared as the run or the bank has it")
    if args.run is None and not (args.data or args.add):
        raise InputError("index: no RUN; name one, or with --data DATALIST the cases of a bank that needs none")
    folder, slices, patients = index_run(
        args.run,
        _bank_folder(args),
        add=args.add,
        section=args.section or "training",
        data=args.data,
        knobs=dict(parse_knob(text) for text in args.set),
    )
    _say(f"bank: {folder}, {slices} slices of {patients} patients")
    if args.data:
        from ragsam.data.datalist import load_datalist

        _say(f"next: ragsam segment --card {load_datalist(args.data).card} --bank {folder} INPUT --output DIR")


def _bank_folder(args: argparse.Namespace) -> Path:
    if args.run is None and args.output is None:
        raise InputError("--output: needed without a RUN; name the folder of the bank")
    return args.output or args.run.absolute() / "bank"


def _remove(args: argparse.Namespace) -> None:
    from ragsam.api.index import prune_bank

    if given := [name for name in ("add", "data", "set") if getattr(args, name)]:
        raise InputError(f"--remove: not with --{given[0]}; do one after the other")
    folder = _bank_folder(args)
    manifest = prune_bank(args.run, folder, args.remove)
    _say(f"bank: {folder}, {manifest['slices']} slices of {manifest['patients']} patients")


def _rank(args: argparse.Namespace) -> int:
    from ragsam.files import write_json_atomic
    from ragsam.inference.novelty_ranking import rank_volumes

    ranking, faults = rank_volumes(args.run, args.input, section=args.section, bank=args.bank, series=args.series)
    for entry in ranking:
        place = f"farther than {entry['percentile']:.0f} % of the bank's volumes"
        _say(f"{entry['case']}: {entry['score']:.3f}, {place}{', unlike them' if entry['flagged'] else ''}")
    if args.json:
        write_json_atomic(args.json, {"volumes": ranking})
    for fault in faults:
        sys.stderr.write(f"ragsam: {fault}\n")
    return 2 if faults else 0


def _segment(args: argparse.Namespace) -> None:
    run, inputs = _run_and_inputs(args)
    if args.prompts:
        _segment_prompted(args, run, inputs)
        return
    from ragsam.api.segment import segment_with_run
    from ragsam.runs.options import parse_knob

    cases = segment_with_run(
        run,
        inputs,
        args.output,
        section=args.section,
        card=args.card,
        base=args.base,
        bank=args.bank,
        retrieval=not args.no_retrieval,
        series=args.series,
        dicom_seg=args.dicom_seg,
        ensemble=args.ensemble,
        uncertainty=args.uncertainty,
        probabilities=args.probabilities,
        knobs=dict(parse_knob(text) for text in args.set),
    )
    _say(f"label volumes: {len(cases)} in {args.output}")


def _run_and_inputs(args: argparse.Namespace) -> tuple[Path | None, list[Path]]:
    """Return the run that segments, None with --card, and its inputs."""
    first, others = args.path[0], args.path[1:]
    if args.card is None:
        if args.base:
            raise InputError("--base: only with --card; a run has weights of its own")
        if not others:
            raise InputError(f"{first}: one path; name a RUN and its INPUT, or instead of the RUN --card and --bank")
        return first, others
    if (first / "configs").is_dir():
        raise InputError(f"--card: segments without a run, and {first} is one; leave one of them out")
    if args.bank is None:
        raise InputError("--card: segments by a bank alone; name one with --bank")
    if given := [name for name in ("no_retrieval", "ensemble", "prompts") if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('_', '-')}: not with --card; there is no run")
    return None, args.path


def _segment_prompted(args: argparse.Namespace, run: Path, inputs: Sequence[Path]) -> None:
    from ragsam.api.segment_prompts import segment_prompted

    others = ("dicom_seg", "ensemble", "uncertainty", "probabilities", "set")
    if given := [name for name in others if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('_', '-')}: not with --prompts; leave one of them out")
    cases = segment_prompted(
        run,
        inputs,
        args.prompts,
        args.output,
        section=args.section,
        bank=args.bank,
        retrieval=not args.no_retrieval,
        series=args.series,
    )
    _say(f"label volumes: {len(cases)} in {args.output}; prompts.json tells what was found where")


def _evaluate(args: argparse.Namespace) -> int:
    from ragsam.data.cards.load import load_card
    from ragsam.data.datalist import load_datalist
    from ragsam.evaluation.case_pairs import pairs_from_cases, pairs_from_folders, unmatched_predictions
    from ragsam.files import read_json
    from ragsam.inference.evaluation import report_evaluation
    from ragsam.report.viewer import viewer_choice

    support_cases, card_name = (), args.card
    if args.reference.suffix == ".json":
        data = load_datalist(args.reference)
        pairs = pairs_from_cases(data.section(args.section), args.prediction)
        support_cases, card_name = data.sections.get("training", ()), card_name or data.card
    else:
        pairs = pairs_from_folders(args.reference, args.prediction, image_dir=args.image)
        for name in unmatched_predictions(args.reference, args.prediction):
            sys.stderr.write(f"ragsam: warning: {name}: a prediction without a reference; it is not evaluated\n")
    if card_name is None:
        raise InputError("--card: needed with a folder of references; name a card or its .yaml file")
    metrics = report_evaluation(
        pairs,
        load_card(card_name),
        args.prediction,
        args.output,
        bank=args.bank,
        support_cases=support_cases,
        baseline=read_json(args.baseline) if args.baseline else None,
        viewer=viewer_choice(args.viewer, [pair.case for pair in pairs]),
        protocol=args.protocol,
        jobs=args.jobs,
    )
    if metrics["protocol_caveat"]:
        sys.stderr.write(f"ragsam: warning: {metrics['protocol_caveat']}\n")
    dice = metrics["summary"]["mean"]["dice"]
    if dice["mean"] is not None:
        _say(f"mean Dice {dice['mean']:.4f} (n = {dice['n']} patients; {metrics['patients']})")
    _say(f"report: {args.output / 'report.html'}")
    for fault in metrics["faults"]:
        sys.stderr.write(f"ragsam: {fault}\n")
    return 2 if metrics["faults"] else 0


def _import(args: argparse.Namespace) -> None:
    from ragsam.commands.import_weights import import_weights

    report = import_weights(
        args.format,
        args.checkpoint,
        base=args.base,
        output=args.output,
        run=args.run,
        card=args.card,
        image_size=args.image_size,
        normalisation=args.normalisation,
    )
    for line in report.lines():
        _say(line)
    if args.output:
        _say(f"weights: {args.output}")
        _say(f"next: ragsam train sam_lora --data DATALIST --output RUN --set start={args.output}{_base_knob(args)}")
    if args.run:
        _say(f"run: {args.run}")
        _say(f"next: ragsam segment {args.run} INPUT --output DIR")


def _base_knob(args: argparse.Namespace) -> str:
    return f" --set base={args.base}" if args.base else ""


def _export(args: argparse.Namespace) -> None:
    for line in EXPORTS[args.to](args):
        _say(line)
    _say(f"{args.to}: {args.output}")


def _export_state_dict(args: argparse.Namespace) -> list[str]:
    from ragsam.commands.export_weights import export_state_dict

    return export_state_dict(args.to, args.run, args.output)


def _export_torchscript(args: argparse.Namespace) -> list[str]:
    from ragsam.commands.export_torchscript import export_torchscript

    return [f"largest difference to PyTorch's logits: {export_torchscript(args.run, args.output):.1e}"]


def _export_onnx(args: argparse.Namespace) -> list[str]:
    from ragsam.commands.export_onnx import export_onnx

    return [f"largest difference to PyTorch's logits: {export_onnx(args.run, args.output):.1e}"]


#: By format, what writes `args.run` to `args.output`, and returns lines on what its user has to know.
EXPORTS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "samed": _export_state_dict,
    "sam": _export_state_dict,
    "torchscript": _export_torchscript,
    "onnx": _export_onnx,
}


def _describe(args: argparse.Namespace) -> None:
    from ragsam.commands.describe import describe, description_text
    from ragsam.files import write_json_atomic
    from ragsam.runs.options import parse_knob

    about = describe(args.bundle, card=args.card, knobs=dict(parse_knob(text) for text in args.set))
    _say(description_text(about))
    if args.json:
        write_json_atomic(args.json, about)


def _verify(args: argparse.Namespace) -> int:
    from ragsam.commands.verify import verify_bundle

    found = verify_bundle(args.bundle)
    for name in found.passed:
        _say(f"passed: {name}")
    for line in found.left_out:
        _say(f"left out: {line}")
    for line in found.faults:
        sys.stderr.write(f"ragsam: {line}\n")
    return 2 if found.faults else 0


def _pack(args: argparse.Namespace) -> None:
    from ragsam.commands.pack import pack_run

    packed = pack_run(args.run, args.output, bank=not args.no_bank, with_base=args.with_base)
    _say(f"packed: {args.output}, {packed.files} files, {args.output.stat().st_size / 1e6:.1f} MB")
    if packed.bank:
        _say("bank: in it, with label maps of the training patients; --no-bank leaves it out")
    if packed.base:
        held = "in it" if packed.with_base else f"left out: {packed.base}, SHA-256 {packed.base_sha256}"
        _say(f"base weights: {held}")
    _say(f"next: ragsam unpack {args.output} --output RUN")


def _unpack(args: argparse.Namespace) -> None:
    from ragsam.commands.unpack import unpack_run

    packed = unpack_run(args.archive, args.output, base=args.base, max_gb=args.max_gb)
    _say(f"run: {args.output}, {packed.files} files, {packed.size / 1e6:.1f} MB")
    _say("a run is code: use one only where you trust its source")
    if packed.base and not packed.with_base and not args.base:
        _say(f"base weights: put {packed.base} into {args.output / 'base'}, SHA-256 {packed.base_sha256}")
    bank = "" if packed.bank else " --no-retrieval"
    _say(f"next: ragsam segment {args.output} INPUT --output DIR{bank}")


def _doctor(args: argparse.Namespace) -> int:
    from ragsam.commands.doctor import examine, finding_lines

    findings = examine()
    for line in finding_lines(findings):
        _say(line)
    return 2 if any(finding.state == "fault" for finding in findings) else 0


def _serve(args: argparse.Namespace) -> None:
    from ragsam.commands.serve import serve

    serve(
        args.run,
        args.studies,
        output=args.output,
        host=args.host,
        port=args.port,
        retrieval=not args.no_retrieval,
    )


def _compare(args: argparse.Namespace) -> None:
    from ragsam.evaluation.compare_runs import read_runs
    from ragsam.report.compare_page import write_comparison
    from ragsam.report.compare_tables import summary_lines

    for line in summary_lines(write_comparison(read_runs(args.evaluation), args.output)):
        _say(line)
    _say(f"page: {args.output / 'compare.html'}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="ragsam", description=__doc__.split(":")[0] + " of RAG-SAM.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole main job, on made patients or given data")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"))
    demo.add_argument("--data", type=Path, metavar="DATALIST", help="data to use instead of phantoms")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a knob of the training")
    demo.set_defaults(job=_demo)

    cards = commands.add_parser("cards", help="the data sets that are known, or one of them in full")
    cards.add_argument("card", nargs="?", help="a card's name, or a .yaml file of your own")
    cards.set_defaults(job=_cards)

    prepare = commands.add_parser("prepare", help="official raw layout to a datalist; copies no voxel")
    prepare.add_argument("card", help="the data set's card: a name, or a .yaml file of your own")
    prepare.add_argument("source", type=Path, help="folder of the raw data")
    prepare.add_argument("--output", type=Path, required=True, metavar="DATALIST.json")
    prepare.add_argument("--layout", help="btcv, flare22, decathlon, nnunet, manifest or plain (default: found out)")
    prepare.add_argument("--patients", type=Path, metavar="CSV", help="table of case and patient")
    prepare.add_argument("--series", action="append", default=[], metavar="UID", help="series of a DICOM folder")
    prepare.add_argument("--validation", type=int, metavar="N", help="patients for validation (default: the card's)")
    prepare.add_argument("--test", type=int, metavar="N", help="patients for testing (default: the card's)")
    prepare.add_argument("--folds", type=int, metavar="N", help="deal all but the test patients to folds")
    prepare.add_argument("--fold", type=int, default=0, metavar="I", help="the fold for validation, from 0")
    prepare.add_argument("--seed", type=int, default=0, help="of the split or the folds")
    prepare.set_defaults(job=_prepare)

    check = commands.add_parser("check", help="every fault of every case, a line each")
    check.add_argument("datalist", type=Path)
    check.add_argument("--card", help="card to check against (default: the datalist's)")
    check.add_argument("--output", type=Path, metavar="DIR", help="write a page with statistics and plots, check.html")
    check.add_argument("--json", type=Path, metavar="FILE", help="write faults and statistics as JSON")
    check.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    check.set_defaults(job=_check)

    train = commands.add_parser("train", help="train a bundle; the run is a bundle itself")
    train.add_argument("bundle", help="a bundle's folder, or the name of a packaged one (sam_lora)")
    train.add_argument("--data", type=Path, required=True, metavar="DATALIST")
    train.add_argument("--output", type=Path, required=True, metavar="RUN")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a knob of train.yaml")
    train.add_argument("--recipe", metavar="NAME", help="knobs by a name, see docs/training.md; --set goes before")
    train.add_argument("--resume", action="store_true", help="go on with RUN where it was stopped, or begin")
    train.add_argument("--check", action="store_true", help="try it: a few batches, and what the whole will take")
    train.add_argument("--fit-batch", action="store_true", help="find the largest batch_size that the memory holds")
    train.add_argument("--folds", type=int, metavar="N", help="cross-validate: N runs in RUN, evaluated as one")
    train.set_defaults(job=_train)

    index = commands.add_parser("index", help="build the support bank of a run's training patients, or grow it")
    index.add_argument("run", type=Path, nargs="?", metavar="RUN", help="left out: a bank to segment by without a run")
    index.add_argument("--output", type=Path, metavar="BANK", help="default: the run's own bank/")
    index.add_argument("--data", type=Path, metavar="DATALIST", help="without a RUN: make a bank of its cases")
    index.add_argument("--add", type=Path, metavar="DATALIST", help="put its cases beside those of the bank")
    index.add_argument("--section", help="of the datalist (default: training)")
    index.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="with --data, as image_size=96")
    index.add_argument("--remove", nargs="+", metavar="PATIENT", help="take patients out of the bank, by their keys")
    index.set_defaults(job=_index)

    rank = commands.add_parser("rank", help="volumes without labels, those first that are most unlike the bank")
    rank.add_argument("run", type=Path)
    rank.add_argument("input", type=Path, nargs="+", help="as for segment")
    rank.add_argument("--section", default="test", help="of a datalist (default: test)")
    rank.add_argument("--bank", type=Path, help="default: the run's own bank/")
    rank.add_argument("--series", action="append", default=[], metavar="UID", help="of a DICOM folder with several")
    rank.add_argument("--json", type=Path, metavar="FILE", help="write the scores as JSON")
    rank.set_defaults(job=_rank)

    segment = commands.add_parser("segment", help="label volumes on the inputs' own grid")
    segment.add_argument(
        "path",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="RUN, left out with --card, then INPUT: NIfTI, .mha or .nrrd files, DICOM folders, or datalists",
    )
    segment.add_argument("--card", help="without a RUN: of the bank's organs; a card's name, or a .yaml file")
    segment.add_argument("--base", type=Path, metavar="SAM", help="with --card: SAM, weights or a run to be prompted")
    segment.add_argument("--output", type=Path, required=True, metavar="DIR")
    segment.add_argument("--section", default="test", help="of a datalist (default: test)")
    segment.add_argument("--bank", type=Path, help="default: the run's own bank/")
    segment.add_argument("--no-retrieval", action="store_true")
    segment.add_argument("--series", action="append", default=[], metavar="UID", help="of a DICOM folder with several")
    segment.add_argument("--dicom-seg", action="store_true", help="write DICOM segmentations too, of DICOM input")
    segment.add_argument("--ensemble", type=Path, nargs="+", default=[], metavar="RUN", help="average with other runs")
    segment.add_argument("--uncertainty", action="store_true", help="write a map of the entropy too")
    segment.add_argument("--probabilities", action="store_true", help="write a map for every organ too")
    segment.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as test_shift=3")
    segment.add_argument("--prompts", type=Path, metavar="JSON", help="objects to find by clicks, boxes and drafts")
    segment.set_defaults(job=_segment)

    evaluate = commands.add_parser("evaluate", help="metrics.json, metrics.csv and report.html")
    evaluate.add_argument("--reference", type=Path, required=True, help="folder of label volumes, or a datalist")
    evaluate.add_argument("--prediction", type=Path, required=True, metavar="DIR")
    evaluate.add_argument(
        "--image", type=Path, metavar="DIR", help="images of a folder of references, for the pictures"
    )
    evaluate.add_argument("--card", help="needed where the reference is a folder")
    evaluate.add_argument("--output", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--section", default="test", help="of a datalist (default: test)")
    evaluate.add_argument(
        "--protocol", default="clinical", help="clinical (default), btcv, flare22, flare22-fixed or samed"
    )
    evaluate.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    evaluate.add_argument("--bank", type=Path, help="the bank searched, to show the neighbours' pictures")
    evaluate.add_argument("--baseline", type=Path, metavar="METRICS.json", help="another run to compare with")
    evaluate.add_argument(
        "--viewer", nargs="*", metavar="CASE", help="3D view of these cases, or of so many of the worst (default: 3)"
    )
    evaluate.set_defaults(job=_evaluate)

    compare = commands.add_parser("compare", help="two or more evaluations of the same cases, against the first")
    compare.add_argument(
        "evaluation", type=Path, nargs="+", help="folders that evaluate wrote; the first is compared with"
    )
    compare.add_argument("--output", type=Path, required=True, metavar="DIR")
    compare.set_defaults(job=_compare)

    bring = commands.add_parser("import", help="a published checkpoint as weights to start with, or as a run")
    bring.add_argument("format", choices=["sam", "medsam", "samed", "medical-sam-adapter", "sam-adapter"])
    bring.add_argument("checkpoint", type=Path)
    bring.add_argument("--base", type=Path, metavar="SAM", help="the SAM that it was made on")
    bring.add_argument("--output", type=Path, metavar="FILE.safetensors")
    bring.add_argument("--run", type=Path, help="write a run that segments with it; needs --card")
    bring.add_argument("--card", help="of its classes, in their order: a name, or a .yaml file of your own")
    bring.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the file's; 512 for samed)")
    bring.add_argument("--normalisation", choices=["unit", "sam"], help="of slices (default: the format's own)")
    bring.set_defaults(job=_import)

    export = commands.add_parser("export", help="a run's network in another format")
    export.add_argument("run", type=Path)
    export.add_argument("--to", required=True, choices=list(EXPORTS))
    export.add_argument("--output", type=Path, required=True, metavar="FILE", help="of onnx a new folder")
    export.set_defaults(job=_export)

    describe = commands.add_parser("describe", help="what trains and what is frozen, part by part, and what it takes")
    describe.add_argument("bundle", help="a run, a bundle's folder, or the name of a packaged one (sam_lora)")
    describe.add_argument("--card", help="needed where it is no run: a card's name, or a .yaml file of your own")
    describe.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in training")
    describe.add_argument("--json", type=Path, metavar="FILE", help="write it as JSON")
    describe.set_defaults(job=_describe)

    pack = commands.add_parser("pack", help="a run as one file, to segment with elsewhere")
    pack.add_argument("run", type=Path)
    pack.add_argument("--output", type=Path, required=True, metavar="FILE.zip")
    pack.add_argument("--no-bank", action="store_true", help="leave the support bank out")
    pack.add_argument("--with-base", action="store_true", help="put the base weights in")
    pack.set_defaults(job=_pack)

    unpack = commands.add_parser("unpack", help="a packed run as a run again")
    unpack.add_argument("archive", type=Path, metavar="FILE.zip")
    unpack.add_argument("--output", type=Path, required=True, metavar="RUN")
    unpack.add_argument("--base", type=Path, metavar="SAM", help="the base weights, where they are not in it")
    unpack.add_argument("--max-gb", type=float, default=10.0, metavar="N", help="what it may grow to (default: 10)")
    unpack.set_defaults(job=_unpack)

    doctor = commands.add_parser("doctor", help="what works here, and what to do about the rest")
    doctor.set_defaults(job=_doctor)

    verify = commands.add_parser("verify", help="every check of a bundle; read as data before it is run")
    verify.add_argument("bundle", help="a run, a bundle's folder, or the name of a packaged one (sam_lora)")
    verify.set_defaults(job=_verify)

    serve = commands.add_parser("serve", help="MONAI Label's server on a copy of a run (`make monailabel-env` first)")
    serve.add_argument("run", type=Path)
    serve.add_argument("--studies", required=True, metavar="DIR", help="volumes; or the address of a DICOMweb server")
    serve.add_argument("--output", type=Path, metavar="DIR", help="of the app and the copy (default: RUN-monailabel)")
    serve.add_argument("--host", default="127.0.0.1", help="another one needs MONAI Label's authentication")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--no-retrieval", action="store_true")
    serve.set_defaults(job=_serve)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 bad input (one line on stderr). A bug shows its traceback."""
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and args.command == "segment" and not any(text.startswith("-") for text in rest):
        args.path += map(Path, rest)  # inputs behind an option: argparse takes a list in one piece
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ragsam").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        return args.job(args) or 0
    except InputError as error:
        sys.stderr.write(f"ragsam: {error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
