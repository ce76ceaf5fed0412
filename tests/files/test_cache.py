"""The cache: shared by runs, never damaged for long, never larger than its limit, and with constant memory use."""

import os

import pytest
import torch

from library.errors import ConfigError, StorageError
from library.files.cache import Cache
from library.files.cache_limit import CacheUse, entries, shrink
from tests.helpers.another_process import held_by_another_process
from tests.helpers.small_disk import remount, small_disk

KB = 250
"""Numbers of four bytes in a kilobyte."""


def filled(folder, count: int) -> Cache:
    """A cache with entries of a little over a kilobyte, each used a minute after the one before."""
    cache = Cache(folder)
    for index in range(count):
        cache.put("kind", {"a": index}, {"x": torch.full((KB,), float(index))})
        os.utime(cache.folder / cache.place("kind", {"a": index}), (index * 60, index * 60))
    return cache


def kept(cache: Cache, count: int) -> list[int]:
    return [index for index in range(count) if (cache.folder / cache.place("kind", {"a": index})).is_file()]


# Memory


def test_what_is_read_again_and_again_stays_in_memory_up_to_a_limit(tmp_path):
    filled(tmp_path, 6)
    cache = Cache(tmp_path, most_held=4 * 4 * KB)
    places = [cache.place("kind", {"a": index}) for index in range(6)]
    first = cache.at(places[0])
    assert cache.at(places[0]) is first
    for place in places[1:4]:
        cache.at(place)
    assert cache.at(places[0]) is first and cache.held == cache.most_held
    cache.at(places[4])
    assert cache.at(places[0]) is first, "it was used last but one"
    assert cache.at(places[1]) is not None and cache.held == cache.most_held
    assert Cache(tmp_path, most_held=10).at(places[5])["x"][0] == 5


def test_what_was_taken_away_or_damaged_meanwhile_is_reported(tmp_path):
    cache = filled(tmp_path, 2)
    gone, cut = (cache.folder / cache.place("kind", {"a": index}) for index in range(2))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:50])
    for index in range(2):
        with pytest.raises(StorageError, match="has lost a file of this run") as error:
            cache.at(cache.place("kind", {"a": index}))
        assert "--resume auto" in error.value.remedy


# Size


def test_a_cache_shrinks_to_its_limit_and_what_was_used_last_stays(tmp_path):
    cache = filled(tmp_path, 5)
    size = entries(cache.folder)[0].size
    cache.find("kind", {"a": 0})
    with CacheUse(tmp_path, limit=3 * size):
        assert kept(cache, 5) == [0, 1, 2, 3, 4], "not while a run goes on"
    assert kept(cache, 5) == [0, 3, 4]
    with CacheUse(tmp_path):
        pass
    assert kept(cache, 5) == [0, 3, 4]


def test_only_the_caches_own_files_are_ever_removed(tmp_path):
    cache = filled(tmp_path, 2)
    theirs = [
        tmp_path / "photo.png",
        tmp_path / "kind" / "lora.safetensors",
        tmp_path / "kind" / "ab" / "x.safetensors",
    ]
    for file in theirs:
        file.parent.mkdir(exist_ok=True)
        file.write_text("not of the cache")
    unfinished = tmp_path / "kind" / "ab" / ".part-xyz.safetensors"
    unfinished.write_text("half")
    with CacheUse(tmp_path, anew=True) as use:
        assert kept(cache, 2) == [] and use.cleared > 2 * 4 * KB
    assert all(file.is_file() for file in theirs) and not unfinished.exists()


def test_nothing_is_removed_while_another_run_uses_the_cache_and_a_killed_one_does_not(tmp_path):
    cache = filled(tmp_path, 3)
    with held_by_another_process(lambda: CacheUse(tmp_path)):
        with CacheUse(tmp_path, limit=1):
            pass
        assert kept(cache, 3) == [0, 1, 2]
        with pytest.raises(ConfigError, match="another command is using the cache"), CacheUse(tmp_path, anew=True):
            pass
        assert kept(cache, 3) == [0, 1, 2]
    with CacheUse(tmp_path, limit=1):
        pass
    assert kept(cache, 3) == [] and not list((tmp_path / ".users").iterdir())


def test_a_cache_that_may_only_be_read_is_used_and_can_not_be_cleared(tmp_path):
    with small_disk(tmp_path / "disk", 200) as disk:
        filled(disk, 1)
        remount(disk, "ro")
        with CacheUse(disk, limit=1):
            assert Cache(disk).find("kind", {"a": 0})["x"][0] == 0
        with pytest.raises(StorageError, match="the folder is read-only"), CacheUse(disk, anew=True):
            pass


def test_shrinking_an_empty_cache_is_not_a_mistake(tmp_path):
    shrink(tmp_path / "none", 0)
    assert entries(tmp_path / "none") == []


# Sharing


def test_two_processes_that_fill_one_cache_find_whole_entries_only(tmp_path):
    """Both make the same entries repeatedly, damaged in between, and check each one that they find."""

    def work() -> int:
        cache = Cache(tmp_path)
        for lap in range(40):
            for index in range(5):
                expected = torch.full((KB,), float(index))
                found = cache.get("kind", {"a": index}, lambda expected=expected: {"x": expected})
                if not torch.equal(found["x"], expected):
                    return 1
                if lap % 8 == 7:
                    (cache.folder / cache.place("kind", {"a": index})).write_bytes(b"damaged")
        return 0

    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                code = work()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
