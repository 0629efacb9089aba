"""`check_config`: every problem of a configuration at once, each with its file and line."""
from __future__ import annotations

from paddleseg_ext.config import agreement_checks, component_checks, path_checks, section_checks
from paddleseg_ext.config.loading import Config
from paddleseg_ext.config.review import Review
from paddleseg_ext.config.yaml_tree import Problem, dotted
from paddleseg_ext.errors import UserError

__all__ = ['CHECKS', 'PATH_CHECKS', 'check_config', 'require_valid']

# Each check takes a Review and yields (key path, message).
CHECKS = (
    section_checks.check_top_level,
    section_checks.check_plain_sections,
    section_checks.check_losses,
    section_checks.check_optimizer,
    section_checks.check_schedule,
    section_checks.check_sliding,
    component_checks.check_types,
    component_checks.check_arguments,
    component_checks.check_missing_arguments,
    component_checks.check_values,
    component_checks.check_nested,
    component_checks.check_pairs,
    component_checks.check_code,
    agreement_checks.check_same_dataset_kind,
    agreement_checks.check_num_classes,
    agreement_checks.check_channels,
    agreement_checks.check_ignore_index,
    agreement_checks.check_output_count,
    agreement_checks.check_class_weights,
    agreement_checks.check_normalization,
    path_checks.check_modes,
)
PATH_CHECKS = (path_checks.check_paths,)


def check_config(config: Config, *, paths: bool = True) -> list[Problem]:
    """Everything that is wrong with a configuration, in the order of files and lines. Imports Paddle.

    Args:
        config: what `load_config` returned.
        paths: also look whether the files and folders that it names exist.
    """
    review = Review(config)
    problems = [*config.problems, *config.refused]
    for check in (*CHECKS, *(PATH_CHECKS if paths else ())):
        for path, message in check(review):
            where = config.root.nearest(path).where
            problems.append(Problem(where.file, where.line, dotted(path), message))
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda problem: (problem.file, problem.line, problem.key))


def require_valid(config: Config, *, paths: bool = True) -> None:
    """Raise one UserError that lists all problems, if there are any."""
    problems = check_config(config, paths=paths)
    if problems:
        count = f'{len(problems)} problem{"s" if len(problems) > 1 else ""}'
        listing = '\n'.join(f'  {problem}' for problem in problems)
        raise UserError(f'{config.path}: {count} in the configuration:\n{listing}')
