"""Lists of instructions with targets, counted over what a folder holds."""

from __future__ import annotations

import pytest

from rdt_ros.episodes.tasks import Task, TaskList, parse_tasks, recorded_in
from rdt_ros.errors import InputError


def test_a_list_is_words_several_of_them_or_a_file(tmp_path):
    assert parse_tasks("") == (Task(""),)
    assert parse_tasks("fold the towel", 50) == (Task("fold the towel", 50),)
    assert parse_tasks("fold | 20 x stack  the cups|fold", 50) == (Task("fold", 50), Task("stack the cups", 20))
    file = tmp_path / "list.txt"
    file.write_text("# Monday\nfold the towel  # blue\n\n3 x stapel die Würfel\n")
    assert parse_tasks(str(file), 5) == (Task("fold the towel", 5), Task("stapel die Würfel", 3))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"\xff\xfe", "no text"), (b"# nothing\n", "found none")]
)
def test_a_file_without_a_list_is_refused(tmp_path, content, message):
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"instruction: {file}.*{message}"):
        parse_tasks(str(file))


def test_finished_episodes_are_counted_by_their_instruction(maker, tmp_path):
    for name in ("episode_0000.hdf5", "episode_0001.hdf5"):
        maker.write(tmp_path / name, maker.observations(4))
    maker.write(tmp_path / "episode_0002.hdf5", maker.observations(4), finish=False)
    (tmp_path / "episode_0003.hdf5").write_bytes(b"no episode")
    assert recorded_in(tmp_path) == {"stapel die Würfel": 2}


def test_it_goes_on_where_a_target_is_reached():
    tasks = TaskList((Task("a", 1), Task("b", 2), Task("c", 1)), {"a": 1})
    assert tasks.current.instruction == "b"  # the first that is short
    tasks.count("b", 1)
    assert not tasks.go_on() and tasks.current == Task("b", 2, 1)
    tasks.count("b", 1)
    assert tasks.go_on() and tasks.current.instruction == "c"
    tasks.count("c", 1)
    assert not tasks.go_on()  # all done
    tasks.count("a", -1)
    assert tasks.go_on() and tasks.current == Task("a", 1, 0)


def test_without_a_target_it_stays():
    tasks = TaskList((Task("a"), Task("b")), {"b": 3})
    tasks.count("a", 1)
    assert not tasks.go_on() and tasks.current == Task("a", 0, 1)
    tasks.next()
    assert tasks.current == Task("b", 0, 3)
    tasks.next()
    assert tasks.current.instruction == "a"


def test_new_words_join_the_list():
    tasks = TaskList((Task(""),), {"fold": 2})
    tasks.select("fold")
    assert tasks.tasks == (Task("fold", 0, 2),)  # in the place of none
    tasks.select("stack")
    tasks.select("fold")
    assert [task.instruction for task in tasks.tasks] == ["fold", "stack"] and tasks.selected == 0
    with pytest.raises(InputError, match="expected an instruction in words"):
        tasks.select("\n")
