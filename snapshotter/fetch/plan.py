"""The one decision: which range does a free connection fetch next?

Pure functions over the state, in the order of what matters: a reader that waits,
then what every reader of a model will want, then the bytes just ahead of a sequential
reader, then completing a model.
"""

from __future__ import annotations

from bisect import bisect_left

from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.records import Download, LoadedModel, Range, Read
from snapshotter.fetch.state import LULL, State
from snapshotter.fetch.streams import Run, is_sequential

FIRST_WINDOW = 1 << 20
"""Bytes fetched ahead of a reader that has just proved sequential."""


WANTED_WINDOW = 16 << 20
"""The same where all of the model is to come anyway."""

KERNEL_AHEAD = 2 << 20
"""Bytes behind the end of what is really read that the kernel may ask for."""

STRETCH = 4
"""Times the configured size that a range may have where a connection is that quick."""

LONG_WAIT = 0.5
"""Seconds a read waits for a flight to come to it before it gets a range of its own."""


def next_range(state: State, now: float) -> Range | None:
    """What a free connection fetches next, or None when there is nothing to do now."""
    chosen = _demand(state, now)
    if chosen is None and now >= state.uncached_until:
        chosen = _prefetch(state, now) or _readahead(state, now) or _background(state, now)
    return chosen


def _demand(state: State, now: float) -> Range | None:
    """The first piece nobody fetches yet of the read that has waited longest."""
    for read in state.reads:
        download = read.download
        if not read.pending or now < download.demand_at:
            continue
        gap = download.unclaimed(read.start, read.end, read.received)
        if gap is not None:
            room = now >= state.uncached_until and state.spare
            return _demanded(state, read, gap, now, room)
        if (cutting := _overtaking(read, state.options, now)) is not None:
            return cutting
    return None


def _overtaking(read: Read, options: FetchOptions, now: float) -> Range | None:
    """An isolated read far inside a slow flight: cut the flight off before it.

    So every byte is still fetched once, at the price of the flight's connection.
    """
    if is_sequential(read.run, options.sequential_after):
        return None
    start, end = read.start - read.start % options.grain, _round_up(read.end, options.grain)
    for flight in read.download.flights:
        # Only where no bytes behind the cut are being received already.
        if (
            flight.cursor < start
            and flight.asked <= start < flight.end
            and flight.wait_for(start, now) > LONG_WAIT
        ):
            return Range(read.model, read.download, start, min(end, flight.end), False, flight)
    return None


def _demanded(state: State, read: Read, gap: tuple[int, int], now: float, room: bool) -> Range:
    """``gap`` of ``read``, and around it what is likely to be read next."""
    download, options = read.download, state.options
    grain = options.grain
    start, end = gap[0] - gap[0] % grain, _round_up(gap[1], grain)
    streaming = (
        room and now >= download.stream_at and is_sequential(read.run, options.sequential_after)
    )
    if streaming:
        ahead = _round_up(read.end, _step(state, read.model, download, read.run, now))
        end = max(end, min(ahead, _reach(state, read.model, download, read.run, now)[1]))
    elif room and read.run.credit >= 2 * grain and read.run.reads > 1:
        # A run that begins: fetch as much again, so that it grows in few round trips.
        end = _round_up(read.end + read.run.credit, grain)
    end = min(end, download.blob.size)
    # Nothing that is there or on its way already; but always the first byte that lacks.
    while (free := read.model.free(download, start, end, read.received)) is not None:
        if free[0] <= gap[0] < free[1]:
            return Range(read.model, download, *free, streaming)
        start = free[1]
    return Range(read.model, download, *gap, streaming)


def _prefetch(state: State, now: float) -> Range | None:
    """The next range that was asked for ahead of all reads."""
    for model in state.models:
        for _ in range(len(model.prefetch)):
            download, start, end = model.prefetch[0]
            gap = download.unclaimed(start, end)
            if gap is None or download.bad is not None:
                model.prefetch.popleft()
            elif now < download.stream_at or not state.room(model, download):
                model.prefetch.rotate(-1)
            else:
                stop = min(gap[1], gap[0] + state.options.range_size)
                return Range(model, download, gap[0], stop, streaming=True)
    return None


def _readahead(state: State, now: float) -> Range | None:
    """The nearest piece ahead of any sequential reader."""
    nearest: tuple[int, Range] | None = None
    for run, (model, download) in state.ahead.items():
        if now < download.stream_at or download.bad is not None or download.blob.complete:
            continue
        if not state.room(model, download):
            continue
        soon, last = _reach(state, model, download, run, now)
        gap = model.free(download, run.head, soon)
        if gap is None or (nearest is not None and gap[0] - run.head >= nearest[0]):
            continue
        # A whole step, though the window ends in it: a reader that everybody waits for would
        # have every megabyte it moves on fetched by a request of its own.
        start, stop = _piece(model, download, gap[0], _step(state, model, download, run, now))
        piece = start, min(stop, last)
        nearest = gap[0] - run.head, Range(model, download, *piece, streaming=True)
    return nearest[1] if nearest else None


def _background(state: State, now: float) -> Range | None:
    """The next piece of the models that are being completed, the one first added first."""
    if state.full or now < state.background_paid:
        return None
    for model in state.models:
        if now < model.background_at or _makes_way(state, model, now):
            continue
        for download in model.to_complete():
            if download.bad is not None or now < download.stream_at:
                continue
            if not state.room(model, download):
                continue
            size = download.blob.size
            begin = min(model.focus_offset, size) if download is model.focus else 0
            gap = model.free(download, begin, size) or model.free(download, 0, begin)
            if gap is not None:
                piece = _piece(model, download, gap[0], _largest(state, model, download))
                return Range(model, download, *piece, streaming=True, background=True)
    return None


def _makes_way(state: State, model: LoadedModel, now: float) -> bool:
    """Whether completing ``model`` waits: who reads it forward has all in reach before he asks.

    Then he is the one who is waited for. What is fetched further ahead comes no sooner to him,
    and where CPU time is short it takes his.
    """
    if not state.cpu_short:
        return False
    runs = [
        (run, download)
        for run, (owner, download) in state.ahead.items()
        if owner is model and now < run.last + LULL and not download.blob.complete
    ]
    return bool(runs) and not any(
        model.free(
            download, run.head, min(run.head + _window(state, model, download, run, now), size)
        )
        for run, download in runs
        for size in [download.blob.size]
    )


def backoff(options: FetchOptions, failures: int, asked: float | None, jitter: float) -> float:
    """Seconds to wait after ``failures`` failed requests in a row, before this one.

    ``jitter`` is from [0, 1); ``asked`` is what the server said (Retry-After), which
    is kept to but for the time a read may wait at all.
    """
    pause = min(options.first_backoff * 2.0 ** min(failures, 30), options.max_backoff)
    pause *= 0.5 + jitter / 2
    return max(pause, min(asked or 0.0, options.read_deadline))


def _reach(
    state: State, model: LoadedModel, download: Download, run: Run, now: float
) -> tuple[int, int]:
    """Up to where to fetch ahead of ``run``, and where to stop in any case.

    Nobody may want what is behind the tensor it is in, unless all of the model is to come anyway.
    A reader who has gone on from a tensor to the next probably wants them all; but where he
    ends, what was fetched ahead was in vain.
    """
    size, window = download.blob.size, _window(state, model, download, run, now)
    if now >= model.background_at or not download.pieces:
        return min(run.head + window, size), size
    tensor = _tensor_end(download, run)
    if tensor is not None:
        return min(run.head + window, tensor), tensor
    return min(run.head + max(FIRST_WINDOW, window // 2), size), size


def _tensor_end(download: Download, run: Run) -> int | None:
    """Where the tensor ends that ``run`` is in; None once it has gone on to a next.

    Where it begins and how far it has come is what the kernel made of it: it asks for whole
    pages, for pages around a fault, and for one window or two ahead of a reader.
    """
    at = bisect_left(download.pieces, run.head - KERNEL_AHEAD)
    if at == len(download.pieces):
        return None
    if at > 0 and run.start + KERNEL_AHEAD < download.pieces[at - 1]:
        return None
    return download.pieces[at]


def _window(state: State, model: LoadedModel, download: Download, run: Run, now: float) -> int:
    """How far ahead of ``run`` to fetch.

    It begins small, for the reader may end; not where all of the model is to come anyway. Where
    CPU time is short, the fetching takes it from the reading that it is meant for, so it is no
    use to be ahead by more than stays in memory; unless the registry is far away, for then that
    is less than what is on its way.
    """
    most = state.options.readahead
    far = state.pace(model.registry_of(download)).far
    if state.cpu_short and state.options.memory and not far:
        most = min(most, state.options.memory)
    least = FIRST_WINDOW if now < model.background_at else WANTED_WINDOW
    return min(max(least, 2 * run.credit), max(FIRST_WINDOW, most))


def _step(state: State, model: LoadedModel, download: Download, run: Run, now: float) -> int:
    """Size of the ranges ahead of ``run``: a quarter of the window, so that several come at once.

    More where one connection is quick enough to bring more in a moment; but where the reader may
    end, little of what he has read. A power of two times the smallest, so that ranges of growing
    sizes end at the same places.
    """
    window = _window(state, model, download, run, now)
    quick = state.pace(model.registry_of(download)).quick
    if now < model.background_at:
        quick = min(quick, run.credit // 8)
    step, largest = FIRST_WINDOW, _largest(state, model, download)
    while step * 2 <= min(max(window // 4, min(window, quick)), largest):
        step *= 2
    return min(step, largest)


def _largest(state: State, model: LoadedModel, download: Download) -> int:
    """The largest range to ask for: more than is configured where it comes in a moment."""
    most, quick = state.options.range_size, state.pace(model.registry_of(download)).quick
    return most * max(1, min(STRETCH, int(quick // most)))


def _piece(model: LoadedModel, download: Download, start: int, step: int) -> tuple[int, int]:
    """What is free from ``start`` to the next multiple of ``step``."""
    end = min(_round_up(start + 1, step), download.blob.size)
    return model.free(download, start, end) or (start, end)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
