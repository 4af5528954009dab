import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_sandbox.errors import ProtocolViolation
from interlock_sandbox.frames import ERROR_BYTES, HEADER, FrameKind, FrameReader, FrameTooLarge, encode


@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_frame_is_read_however_it_is_cut(payload: bytes, piece: int) -> None:
    data = encode(FrameKind.RESULT, payload)
    reader = FrameReader(result_bytes=200)
    frames = [reader.feed(data[at : at + piece]) for at in range(0, len(data), piece)]
    assert frames[:-1] == [None] * (len(frames) - 1)
    assert frames[-1] == (FrameKind.RESULT, payload)


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes) -> None:
    reader = FrameReader(result_bytes=16)
    try:
        reader.feed(data)
    except ProtocolViolation:
        return


@pytest.mark.parametrize(
    ("kind", "length"),
    [(FrameKind.RESULT, 11), (FrameKind.RESULT, 2**32 - 1), (FrameKind.TOOL_ERROR, ERROR_BYTES + 1)],
)
def test_a_length_beyond_the_limit_is_refused_before_its_bytes_arrive(kind: FrameKind, length: int) -> None:
    with pytest.raises(FrameTooLarge):
        FrameReader(result_bytes=10).feed(HEADER.pack(length, kind))


@pytest.mark.parametrize("number", [0, 8, 255])
def test_an_unknown_kind_is_refused(number: int) -> None:
    with pytest.raises(ProtocolViolation, match=str(number)):
        FrameReader(result_bytes=10).feed(HEADER.pack(0, number))
