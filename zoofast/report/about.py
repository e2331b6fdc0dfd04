"""The last section of every report: how the report was made, and on which machine."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence

from zoofast.base.cpus import cpu_name, usable_cpus
from zoofast.base.provenance import versions
from zoofast.preprocess.recipe import Recipe
from zoofast.report.data import Block, Facts, Section


def environment() -> dict[str, str]:
    """The machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": cpu_name(),
        "usable CPUs": f"{usable_cpus()} of {os.cpu_count()}",
        "memory": f"{memory / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Facts of a recipe; results with the same digest are comparable."""
    shape = " × ".join(map(str, recipe.shape))
    return {
        "recipe": recipe.name,
        "digest": recipe.digest,
        "tensor": f"{recipe.dtype} {recipe.layout} {shape}",
    }


def about(
    command: Sequence[str], recipe: Recipe | None = None, more: Mapping[str, str] | None = None
) -> Section:
    """Command line, recipe, environment and versions. more: further facts of this run."""
    run = {"command": shlex.join(command), **(more or {})}
    blocks: list[Block] = [Facts(run, code=True)]
    if recipe is not None:
        blocks.append(Facts(recipe_facts(recipe), "Recipe"))
    blocks += [Facts(environment(), "Environment"), Facts(versions(), "Versions")]
    return Section("How this was made", blocks)
