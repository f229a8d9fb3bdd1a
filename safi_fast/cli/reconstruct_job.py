"""One input of `safi-fast reconstruct`: its slices solved with the strength of the run,
written, drawn, and reported.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageFileError, InputError, SafiError
from . import session as sessions
from .arguments import UsageError
from .options import stated
from .output import message_of, print_error, print_warning, progress, warnings_as_lines
from .page import Page
from .plan import Job, natural, slice_name
from .problems import Array, Slice, Study
from .reconstruct_options import Options
from .reconstruct_page import entry_of, shown
from .reconstruct_progress import Meter, words
from .sharing import Skipped, Turn, Turns

if TYPE_CHECKING:
    from ..tuning import Tuning

LOW, HIGH, CANDIDATES = 1e-5, 1e-2, 7  # strengths to try, times ||H||^2
WAITING = "waiting"  # of a record whose output another process is making
PIXELS_AT_ONCE = 2**19  # of the candidates that are solved as one batch: about 0.5 GB


@dataclass
class Runner:
    """What lives through a run: the solver, made when first needed, and the strength, found when first needed."""

    options: Options
    sources: list[Path]
    turns: Turns
    page: Page | None = None
    session: sessions.Session | None = None
    tuning: "Tuning | None" = None
    tuned_on: Path | None = None

    def solver(self) -> Any:
        """The solver of --model."""
        if self.session is None:
            self.session = sessions.make_session(self.options.model, self.options.backend, self.options.precision)
            if self.options.noise_level is not None:
                self.session.check_level("--noise-level", self.options.noise_level, strength_given=True)
        return self.session.solver

    def strength(self) -> float:
        """--strength, or the one that fits the first slice of the first input that can be read best."""
        if self.options.strength is not None:
            return self.options.strength
        number = (self.options.slices or (0, 0))[0]
        while self.tuning is None:
            source = self.sources[0]
            try:
                study = self.options.case.open_study(source)
                self.tuning = _tune(self, study, study.slice(number), number)
                self.tuned_on = source
            except SafiError as error:  # its own turn will say so
                if len(self.sources) == 1:
                    text = message_of(error).removeprefix(f"{source}: ")
                    raise InputError(f"no strength could be chosen; with {source}: {text}") from error
                del self.sources[0]
        return self.tuning.strength


def reconstruct_all(jobs: list[Job], runner: Runner) -> list[dict[str, Any]]:
    """A record for each output, in the order of the inputs; what other processes are making comes last, when they are
    done with it.
    """
    turns = runner.turns
    records: dict[tuple[int, str], dict[str, Any]] = {}
    asked: dict[int, set[Path]] = {number: set() for number in range(len(jobs))}  # an empty set: all outputs
    while asked:
        for number, only in asked.items():
            for target in only:  # a file that has fewer slices since then does not answer, and is not asked again
                del records[number, str(target)]
            for record in _attempt(jobs[number], runner, f"{number + 1}/{len(jobs)}", only):
                records[number, record["output"]] = record
        asked = {}
        for (number, output), record in records.items():
            if record["status"] == WAITING:
                asked.setdefault(number, set()).add(Path(output))
        if asked:
            turns.wait([target for targets in asked.values() for target in sorted(targets, key=natural)])
    return [records[key] for key in sorted(records, key=lambda key: (key[0], natural(key[1])))]


def _attempt(job: Job, runner: Runner, place: str, only: set[Path]) -> list[dict[str, Any]]:
    """The records of one input, or of some of its outputs; one record if it failed. only: these outputs, empty: all."""
    try:
        known = sorted(only, key=natural) if only else [] if job.is_folder else [job.target]
        found = {target: runner.turns.look(target) for target in known}
        if found and True not in found.values():
            return [_record_of_turn(job, target, turn) for target, turn in found.items()]
        study = runner.options.case.open_study(job.source)
        return process(job, study, runner, place, only)
    except (SafiError, MemoryError) as error:
        return [job.failure(error, target) for target in sorted(only or [job.target], key=natural)]


def process(job: Job, study: Study, runner: Runner, place: str, only: set[Path]) -> list[dict[str, Any]]:
    """Solve what is missing of one input, write it; a record for each output. only: these outputs, empty: all."""
    options = runner.options
    numbers = list(_numbers(job.source, study, options))
    for note in [] if only else study.facts.get("warnings", []):
        print_warning(f"{job.source}: {note}")
    if options.plot and options.plot.suffix and len(numbers) > 1:
        raise UsageError(f"--plot {options.plot}: {len(numbers)} slices need a folder, a name without an extension")
    if not job.is_folder and options.measured:
        from ..io.results import check_result_name

        check_result_name(job.target, len(numbers))
    groups = [[number] for number in numbers] if job.is_folder else [numbers]
    targets = {_target(job, group[0], study.count, options): group for group in groups}
    targets = {target: group for target, group in targets.items() if not only or target in only}
    meter = Meter(options, sum(map(len, targets.values())))
    with progress(f"{place} {job.source.name}", meter.total, meter.unit) as meter.advance:
        return [_in_turn(job, study, target, group, runner, meter) for target, group in targets.items()]


def _in_turn(job: Job, study: Study, target: Path, group: list[int], runner: Runner, meter: Meter) -> dict[str, Any]:
    """The record of one output, which is made here unless it exists or another process makes it."""
    try:
        turn = runner.turns.take(target)
        if turn is not True:
            meter.skip(len(group))
            return _record_of_turn(job, target, turn, slices=group)
        return _reconstruct(job, study, target, group, runner, meter)
    except (SafiError, MemoryError) as error:
        return job.failure(error, target)
    finally:
        runner.turns.let_go(target)


def _reconstruct(
    job: Job, study: Study, target: Path, group: list[int], runner: Runner, meter: Meter
) -> dict[str, Any]:
    """Solve the slices of one output and write it; its record."""
    results, details, entries = [], [], []
    for number in group:
        made = study.slice(number)
        solution, facts = _solve(job, study, made, number, runner, meter)
        results.append(solution.image)
        details.append(facts)
        if runner.page:
            entries.append(entry_of(study, made, solution, facts, number, runner))
    written = study.write(target, np.stack(results))
    if runner.page:
        runner.page.add(target, *entries)
    facts = {
        "data_range": study.range.argument, "data_range_rule": study.range.rule, "box": study.box, **written,
    }  # fmt: skip
    return job.record("reconstructed", target, slices=group, **facts, **study.facts, solved=details)


def numbers_of(source: Path, options: Options) -> tuple[range, int]:
    """Which slices of an input are solved, and how many it has; none where it cannot be read,
    which its turn will say.
    """
    try:
        study = options.case.open_study(source)
        return _numbers(source, study, options), study.count
    except SafiError:
        return range(0), 0


def _numbers(source: Path, study: Study, options: Options) -> range:
    first, last = options.slices or (0, study.count)
    if last > study.count:
        raise ImageFileError(f"{source}: has {study.count} slices; --slices {first}:{last} asks for more")
    return range(first, last)


def _target(job: Job, number: int, slices: int, options: Options) -> Path:
    if not job.is_folder:
        return job.target
    return job.target / slice_name(job.source, number, slices, f".{options.format}")


def _solve(
    job: Job, study: Study, made: Slice, number: int, runner: Runner, meter: Meter
) -> tuple[Any, dict[str, Any]]:
    """One slice: its Solution and what the report says of it."""
    options, strength = runner.options, runner.strength()
    solver = runner.solver()
    meter.begin(made.measurement.size // int(np.prod(made.operator.shape_out)) // solver.model.filters.planes)
    start = time.perf_counter()
    with warnings_as_lines():
        solution = solver.reconstruct(
            made.measurement,
            made.operator,
            strength=strength,
            x0=made.x0,
            watch=meter.watch,
            return_masks=options.plot is not None or options.html is not None,
            **_options(options, study),
        )
    seconds = time.perf_counter() - start
    meter.end()
    history = [(float(np.max(r.relative_gap)), float(np.max(r.outer_residual))) for r in solution.history]
    certificate = "relative duality gap over a ball" if study.box is None else "relative duality gap"
    facts = {
        "slice": number,
        "seconds": seconds,
        "strength": strength,
        **sessions.summary(solution),
        "certificate": certificate,
        "outer_residual": float(np.max(solution.outer_residual)),
        "operator_norm": made.operator.norm,
        "shape": list(solution.image.shape),
        "history": [{"relative_gap": gap, "outer_residual": change} for gap, change in history],
        **made.facts,
    }
    if options.plot is not None:
        facts["picture"] = _picture(options.plot, job, study, made, number, solution, facts)
    return solution, facts


def _options(options: Options, study: Study) -> dict[str, Any]:
    """Arguments of `Solver.reconstruct` that all slices share, without those that were not given."""
    level = None if options.noise_level is None else options.noise_level / sessions.EIGHT_BIT * study.eight_bit
    given = stated(
        noise_level=level,
        schedule=options.schedule,
        max_outer=options.max_outer,
        max_iter=options.max_iter,
        tol=options.tol,
        mask_of=study.mask_of,
        max_memory=options.max_memory,
    )
    return {"data_range": study.range, "box": study.box, **given}


def _tune(runner: Runner, study: Study, made: Slice, number: int) -> "Tuning":
    """The best strength for one slice; of a colour image, which a grey model takes channel by channel, for the middle
    one. Raises as `Solver.tune_strength`.
    """
    from ..tuning import Tuning

    options, operator = runner.options, made.operator
    y, x0, reference = made.measurement, made.x0, None
    together = runner.solver().model.filters.planes > 1
    if y.ndim > len(operator.shape_out) and not together:
        y, x0 = y[len(y) // 2], None if x0 is None else x0[len(x0) // 2]
    if options.holdout:
        x0 = None  # it was made from what is left out as well
    if options.tune_reference:
        reference = _reference(options.tune_reference, options, study, made, number, together)
    tried = (
        operator.norm**2 * np.geomspace(LOW, HIGH, CANDIDATES)
        if options.candidates is None
        else np.asarray(options.candidates)
    )
    at_once = max(1, PIXELS_AT_ONCE // int(np.prod(operator.shape_in)))
    scores: list[float] = []
    by = ""
    with (
        progress("choosing the strength", len(tried), "strength") as advance,
        warnings_as_lines(silent=True),
    ):  # the solve says it
        for part in np.split(tried, range(at_once, len(tried), at_once)):
            found = runner.solver().tune_strength(
                y,
                operator,
                part,
                reference=reference,
                noise_std=None if options.noise_std is None else options.noise_std * study.noise_unit,
                holdout=options.holdout,
                x0=None if x0 is None else np.stack([x0] * len(part)),
                watch=lambda state: advance(0, note=words(state)),
                **_options(options, study),
            )
            scores, by = [*scores, *found.scores.tolist()], found.by
            advance(len(part))
    best = int(np.argmin(scores))
    if best in (0, len(tried) - 1) and len(tried) > 1:
        print_warning(
            f"the best strength, {tried[best]:.3g}, is the {'smallest' if best == 0 else 'largest'} that was tried; "
            "pass --candidates LOW:HIGH:N around it"
        )
    return Tuning(float(tried[best]), np.asarray(tried), np.asarray(scores), by)


def _reference(file: str, options: Options, study: Study, made: Slice, number: int, together: bool) -> Array:
    """The image of --tune-reference FILE, in the units of the result; together: all of its channels. Raises
    ImageFileError.
    """
    shape: tuple[int, ...] = made.operator.shape_in
    if options.measured:
        from ..io import read_array

        image = np.asarray(read_array(file))
        image = image.reshape([side for side in image.shape if side > 1])
        image = image[number] if image.ndim == 3 and len(image) == study.count else image
    else:
        from ..io import read_image

        read = read_image(file)
        if together and read.channel_axis is not None:
            image = np.moveaxis(read.array, -1, -3)
            shape = (image.shape[-3], *shape)
        else:
            image = read.array if read.channel_axis is None else read.array[..., 1]
        image = image[number] if image.ndim > len(shape) else image
        own = read.meaning(options.case.data_range, "reference")
        image = study.range.from_unit(own.to_unit(image.astype(np.float32)))
    if image.shape != shape:
        raise ImageFileError(f"{file}: the reference has shape {image.shape}; expected the image's {shape}")
    ours, theirs = (float(np.sqrt(np.mean(np.abs(one) ** 2))) for one in (made.start[..., :, :], image))
    if made.start.shape[-2:] == shape[-2:] and not 0.1 < theirs / max(ours, np.finfo(float).tiny) < 10:
        raise ImageFileError(
            f"{file}: the reference has a root mean square of {theirs:.3g}, but the start image of "
            "this slice "
            f"{ours:.3g}; expected the units of the result"
        )
    return image


def _picture(
    path: Path, job: Job, study: Study, made: Slice, number: int, solution: Any, facts: dict[str, Any]
) -> str | None:
    """The name of the picture; None where it cannot be written, which is said and does not cost the result."""
    try:
        return str(_draw(path, job, study, made, number, solution, facts))
    except SafiError as error:
        print_error(message_of(error))
        return None


def _draw(path: Path, job: Job, study: Study, made: Slice, number: int, solution: Any, facts: dict[str, Any]) -> Path:
    from ..atomic import prepare_folder
    from ..plots import reconstruction

    if path.suffix.lower() != ".png":
        prepare_folder(path)
        path = path / slice_name(job.source, number, study.count, ".png")
    start, result = (shown(image, study.range) for image in (made.start, solution.image))
    masks = solution.masks.reshape(-1, *solution.masks.shape[-2:]).mean(axis=0)
    reconstruction(
        path,
        start,
        result,
        masks,
        [entry["relative_gap"] for entry in facts["history"]],
        [entry["outer_residual"] for entry in facts["history"]],
        certificate=facts["certificate"],
        captions={
            "start": study.start_name,
            "result": f"Reconstruction\nstrength {facts['strength']:.3g}, {facts['seconds']:.1f} s",
        },
    )
    return path


def _record_of_turn(job: Job, target: Path, turn: Turn, **facts: Any) -> dict[str, Any]:
    """The record of an output that is not this process's to make."""
    if isinstance(turn, Skipped):
        return job.record("skipped", target, reason=turn.reason, **facts)
    return job.record(WAITING, target, **facts)
