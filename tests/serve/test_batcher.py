"""Batches form while the function is busy; errors and cancellations stay with their items."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from demo_server import untrained
from PIL import Image
from serving import QUESTION, picture

from vlm.image.rgb import WhiteLevel
from vlm.inference import VQA, Answer
from vlm.serve.batcher import Batcher, FullError
from vlm.serve.reader import UploadedImage, read_upload

pytest.importorskip("prometheus_client", reason="install it with `pip install 'vlm-vqa[serve]'`")


def test_what_waits_goes_together_and_what_was_cancelled_does_not() -> None:
    seen: list[list[int]] = []
    go = Event()

    def run(items: list[int]) -> Sequence[int | Exception]:
        seen.append(items)
        assert go.wait(10)
        return [ValueError(str(i)) if i == 3 else 10 * i for i in items]

    async def main() -> list[object]:
        batcher = Batcher(run, largest=3, waiting=6)
        worker = asyncio.create_task(batcher.work())
        first = asyncio.create_task(batcher(0))
        while not seen:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher(i)) for i in range(1, 7)]
        await asyncio.sleep(0.01)
        with pytest.raises(FullError, match="try again in 1 s"):
            await batcher(7)
        rest[1].cancel()
        await asyncio.sleep(0.01)
        assert len(batcher) == 5
        last = asyncio.create_task(batcher(7))  # in the place of the one that left
        await asyncio.sleep(0.01)
        go.set()
        done = await asyncio.gather(first, *rest, last, return_exceptions=True)
        worker.cancel()
        return done

    done = asyncio.run(main())
    assert seen == [[0], [1, 3, 4], [5, 6, 7]]
    assert isinstance(done[2], asyncio.CancelledError)
    assert isinstance(done[3], ValueError)
    assert [*done[:2], *done[4:]] == [0, 10, 40, 50, 60, 70]


def test_a_function_that_fails_fails_its_batch_alone() -> None:
    def run(items: list[int]) -> Sequence[int | Exception]:
        if 1 in items:
            raise RuntimeError("once")
        return items

    async def main() -> None:
        batcher = Batcher(run, largest=1, waiting=6)
        worker = asyncio.create_task(batcher.work())
        with pytest.raises(RuntimeError, match="once"):
            await batcher(1)
        assert await batcher(2) == 2
        worker.cancel()

    asyncio.run(main())


def test_one_bad_question_spoils_no_other_s_answer() -> None:
    from vlm.serve.service import Service

    vqa = VQA(untrained())
    service = Service(vqa, read_upload)

    async def ask(number: int, question: str) -> str:
        return (await service.answer([picture(number)], question)).answer.text

    async def main() -> list[object]:
        asked = [ask(1, QUESTION), ask(2, "\ud800"), ask(1, "is it red?"), ask(3, QUESTION)]
        tasks = [asyncio.create_task(one) for one in asked]
        await asyncio.sleep(0.5)  # all read their images, and wait together
        worker = asyncio.create_task(service.batcher.work())
        done = await asyncio.gather(*tasks, return_exceptions=True)
        worker.cancel()
        return done

    encoded = []
    vqa.model.image_encoder.register_forward_hook(lambda _, given, __: encoded.append(given[0]))
    first, bad, again, third = asyncio.run(main())
    assert "not valid Unicode" in str(bad)
    assert [first, again, third] == [
        vqa.answer(picture(number), question).text
        for number, question in ((1, QUESTION), (1, "is it red?"), (3, QUESTION))
    ]
    assert len(encoded[0]) == 3, "each image once"


def test_images_that_wait_are_small_and_counted() -> None:
    """However many clients come, and however large their images."""
    from vlm.serve.service import Service

    reading, go = Event(), Event()

    def read(content: bytes, white_level: WhiteLevel) -> UploadedImage:
        reading.set()
        assert go.wait(10)
        return UploadedImage(Image.new("RGB", (2000, 1000), "red"), ())

    service = Service(VQA(untrained()), read, waiting=2)

    async def main() -> None:
        tasks = [asyncio.create_task(service.answer([picture(n)], QUESTION)) for n in range(2)]
        await asyncio.to_thread(reading.wait, 10)
        with pytest.raises(FullError):
            await service.answer([picture(9)], QUESTION)
        go.set()
        while len(service.batcher) < 2:
            await asyncio.sleep(0.001)
        waiting = service.batcher._queue.values()
        assert [item.image.pixels.numel() for item in waiting] == [3 * 32 * 32] * 2
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(service.batcher._queue) == 1, "nothing is kept for a client that went away"
        worker = asyncio.create_task(service.batcher.work())
        await tasks[1]
        worker.cancel()

    asyncio.run(main())


def test_images_that_wait_at_full_size_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models of the hub scale images themselves, so theirs wait as they are."""
    from vlm.serve.service import Service

    monkeypatch.setattr("vlm.serve.service.WAITING_BYTES", 4 * 2000 * 1000)
    large = Image.new("RGB", (2000, 1000))
    vqa = VQA(untrained())
    vqa.transform = SimpleNamespace(white_level=None, open=lambda image: image)
    read = []

    def reader(content: bytes, white_level: WhiteLevel) -> UploadedImage:
        read.append(content)
        return UploadedImage(large, ())

    service = Service(vqa, reader)

    async def main() -> None:
        tasks = [asyncio.create_task(service.answer([picture(n)], QUESTION)) for n in range(4)]
        refused = await asyncio.gather(*tasks[2:], return_exceptions=True)
        assert [type(error) for error in refused] == [FullError] * 2
        assert len(service.batcher) == len(read) == 2, "one at the limit, and one above it"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert service._waiting_bytes == 0

    asyncio.run(main())


def test_no_image_is_read_for_a_question_whose_time_is_over() -> None:
    from vlm.serve.service import Service

    read = []

    def slow(content: bytes, white_level: WhiteLevel) -> UploadedImage:
        read.append(content)
        time.sleep(0.3)
        return UploadedImage(Image.new("RGB", (8, 8)), ())

    service = Service(VQA(untrained()), slow, seconds=0.2)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await service.answer([picture(n) for n in range(5)], QUESTION)

    asyncio.run(main())
    service._reading.shutdown()  # what it has begun is done
    assert len(read) == 1


def test_a_batch_that_took_too_long_is_not_tried_again() -> None:
    from vlm.serve.service import Service

    service = Service(VQA(untrained()), read_upload, seconds=2)
    encoder, begun = service.vqa.model.image_encoder, []

    def slow(*_: object) -> None:
        begun.append(1)
        time.sleep(2.5)

    encoder.register_forward_pre_hook(slow)

    async def main() -> list[object]:
        asked = [service.answer([picture(n)], QUESTION) for n in range(3)]
        tasks = [asyncio.create_task(one) for one in asked]
        while len(service.batcher) < 3:
            await asyncio.sleep(0.001)
        worker = asyncio.create_task(service.batcher.work())
        done = await asyncio.gather(*tasks, return_exceptions=True)
        service.batcher._thread.shutdown()  # until the model is free
        worker.cancel()
        return done

    assert [type(error) for error in asyncio.run(main())] == [TimeoutError] * 3
    assert len(begun) == 1


def test_an_answer_below_the_threshold_is_an_abstention() -> None:
    from vlm.serve.service import Service

    service = Service(VQA(untrained()), read_upload)

    async def main() -> list[Answer]:
        worker = asyncio.create_task(service.batcher.work())
        asked = [await service.answer([picture(1)], QUESTION, least=least) for least in (0.0, 1.0)]
        worker.cancel()
        return [reply.answer for reply in asked]

    given, withheld = asyncio.run(main())
    assert (given.abstains, withheld.abstains) == (False, True)
    assert (withheld.text, withheld.top) == ("I don't know", given.top)
    assert b"vlm_abstentions_total 1.0" in service.metrics.page()


def test_the_cache_forgets_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm.serve import service as module

    service = module.Service(VQA(untrained()), read_upload)
    one = sum(t.nbytes for t in service.vqa.see(picture(0)).tensors)
    monkeypatch.setattr(module, "CACHE_BYTES", 2 * one)
    encoded: list[torch.Tensor] = []
    encoder = service.vqa.model.image_encoder
    encoder.register_forward_hook(lambda _, given, __: encoded.append(given[0]))

    async def main() -> None:
        worker = asyncio.create_task(service.batcher.work())
        for number in (1, 2, 1, 3, 1, 2):
            await service.answer([picture(number)], QUESTION)
        worker.cancel()

    asyncio.run(main())
    assert len(encoded) == 4  # 1, 2, 3, and 2 again
