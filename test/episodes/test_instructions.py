"""Instructions beside episodes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt_ros.episodes import instructions
from rdt_ros.episodes.instructions import FOLDER_FILE, Instructions
from rdt_ros.episodes.reader import EpisodeReader
from rdt_ros.errors import InputError

WORDS = st.text(min_size=1, max_size=20).filter(str.strip)
TEXTS = st.lists(WORDS, max_size=3).map(tuple)


@given(original=WORDS, simplified=TEXTS, expanded=TEXTS)
def test_what_is_saved_is_loaded(tmp_path_factory, original, simplified, expanded):
    path = tmp_path_factory.getbasetemp() / "i.json"
    texts = Instructions(original, simplified, expanded)
    instructions.save(path, texts)
    assert instructions.load(path) == texts
    data = json.loads(path.read_text(encoding="utf-8"))
    assert list(data) == ["instruction", "simplified_instruction", "expanded_instruction"]
    assert all(data.values())  # the reference draws one of the three, and an element of a list


def test_an_episode_has_its_own_or_its_folders_or_what_it_was_recorded_with(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(4))

    def found() -> Instructions:
        with EpisodeReader(tmp_path / "e.hdf5") as episode:
            assert episode.instruction == episode.instructions.original
            return episode.instructions

    assert found() == Instructions("stapel die Würfel")
    folder, own = Instructions("of the folder", ("short",), ("long", "longer")), Instructions("of its own")
    instructions.save(instructions.path_for(tmp_path), folder)
    assert (tmp_path / FOLDER_FILE).exists() and found() == folder
    instructions.save(instructions.path_for(tmp_path / "e.hdf5"), own)
    assert (tmp_path / "e.instructions.json").exists() and found() == own


def test_a_published_file_is_read(tmp_path):
    path = tmp_path / FOLDER_FILE
    path.write_text('{"instruction": "A.", "simplified_instruction": ["B."], "expanded_instruction": ["C.", "D."]}')
    assert instructions.load(path) == Instructions("A.", ("B.",), ("C.", "D."))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "expected JSON"),
        ("[]", "expected an object with the text 'instruction'"),
        ('{"instruction": 3}', "expected an object with the text 'instruction'"),
        ('{"instruction": "a", "expanded_instruction": [3]}', "i.json.expanded_instruction: expected a text or a list"),
        (b"\xff", "expected JSON"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "i.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"i.json.*{message}|{message}") as error:
        instructions.load(path)
    assert "\n" not in str(error.value)


def test_a_broken_file_beside_an_episode_is_named_when_asked_for(maker, tmp_path):
    maker.write(tmp_path / "e.hdf5", maker.observations(4))
    (tmp_path / FOLDER_FILE).write_text("{")
    with EpisodeReader(tmp_path / "e.hdf5") as episode, pytest.raises(InputError, match="expected JSON"):
        _ = episode.instruction


@pytest.mark.parametrize("texts", [Instructions(" ", ("b",)), Instructions("a", ("",)), Instructions("a", (), (" ",))])
def test_empty_texts_are_not_saved(tmp_path, texts):
    with pytest.raises(InputError, match="i.json: expected"):
        instructions.save(tmp_path / "i.json", texts)
    assert not list(tmp_path.iterdir())
