"""Lists of prompts: their texts, and what can be wrong with them."""

import pytest

from library.config.dataset import Concept
from library.errors import ConfigError
from library.evaluation.prompts import LISTS, default_list, read_lists

DOG = Concept(name="rex", trigger="sks", class_word="dog")
OWL = Concept(name="hoot", trigger="sks", class_word="owl")
INK = Concept(name="ink", trigger="zwx", kind="style")


def test_dreambench_has_25_prompts_for_animals_and_25_for_objects_15_of_them_the_same():
    live = [prompt.text for prompt in read_lists(DOG, ["dreambench-live"], [])]
    objects = [prompt.text for prompt in read_lists(DOG, ["dreambench-object"], [])]
    assert len(live) == len(objects) == 25
    assert live[:10] == objects[:10] and live[-5:] == objects[-5:] and not set(live[10:20]) & set(objects[10:20])


def test_the_base_text_is_the_prompt_without_the_trigger_and_the_article_fits():
    dog, owl = read_lists(DOG, ["dreambench-live"], [])[0], read_lists(OWL, ["dreambench-object"], [])[0]
    assert (dog.text, dog.base) == ("a sks dog in the jungle", "a dog in the jungle")
    assert (owl.text, owl.base) == ("a sks owl in the jungle", "an owl in the jungle")


def test_prompts_that_change_the_subject_are_marked():
    marked = [p.base for p in read_lists(DOG, ["dreambench-live"], []) if p.changes_subject]
    assert marked == ["a red dog", "a purple dog", "a cube shaped dog"]


def test_each_concept_has_a_list_that_fits():
    vase = Concept(name="vase", trigger="sks", class_word="vase")
    assert [default_list(one) for one in (DOG, vase, INK)] == ["dreambench-live", "dreambench-object", "style"]


@pytest.mark.parametrize("concept", [DOG, OWL, INK])
def test_the_preservation_set_never_names_the_concept_and_a_style_has_no_class(concept):
    prompts = read_lists(concept, [], ["preservation"])
    assert all(prompt.text == prompt.base and concept.trigger not in prompt.text.split() for prompt in prompts)
    groups = {prompt.group for prompt in prompts}
    assert groups == ({"unrelated"} if concept is INK else {"class", "unrelated"})
    assert not any(" a owl" in prompt.text or "{" in prompt.text for prompt in prompts)


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_list_of_ours_can_be_read_and_has_no_line_twice(path):
    holds_concept = "[V]" in path.read_text(encoding="utf-8").split("\n", 4)[4]
    concept = INK if "style" in path.stem else DOG
    prompts = read_lists(concept, [path.stem] if holds_concept else [], [] if holds_concept else [path.stem])
    assert prompts and len({prompt.text for prompt in prompts}) == len(prompts)


def test_every_prompt_without_the_concept_is_named(tmp_path):
    (tmp_path / "mine.txt").write_text("a [V] dog in a park\na dog on a sofa\na tree\n")
    with pytest.raises(ConfigError) as error:
        read_lists(DOG, [str(tmp_path / "mine.txt")], [])
    assert "prompt 2" in str(error.value) and "prompt 3" in str(error.value) and "prompt 1" not in str(error.value)


def test_a_preservation_list_with_the_concept_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("a dog\na sks dog\n")
    with pytest.raises(ConfigError, match=r'"a sks dog" names the concept'):
        read_lists(DOG, [], [str(tmp_path / "mine.txt")])


def test_a_misspelt_list_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="dreambench-live"):
        read_lists(DOG, ["dreambnch-live"], [])
