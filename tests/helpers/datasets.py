"""Dataset files for tests, whole and in pieces, and concepts for captions."""

from library.config.dataset import Concept

DOG = Concept(name="dog", trigger="sks", class_word="dog")
INK = Concept(name="ink", trigger="ohwx", kind="style")

CONCEPT = '[[concepts]]\nname = "dog"\ntrigger = "sks"\nclass_word = "dog"\n'
HEAD = f"{CONCEPT}[[datasets]]\nresolution = 32\nbatch_size = 2\n"
DOGS = '[[datasets.subsets]]\nimage_dir = "{pictures}"\n'
"""A subset with the pictures in `{pictures}`, to append to a head."""

DATASET = """
[[concepts]]
name = "dog"
trigger = "sks"
class_word = "dog"

[[datasets]]
resolution = 32
batch_size = 2
  [[datasets.subsets]]
  image_dir = "{pictures}"
"""


def in_batches_of(size: int) -> str:
    """A dataset with three training pictures, in batches of this size, and one picture for the validation loss."""
    return DATASET.replace("batch_size = 2", f"batch_size = {size}\nvalidation_split = 0.25")
