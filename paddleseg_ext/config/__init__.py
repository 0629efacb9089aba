"""YAML configurations: reading with bases and overrides, checking every key, building, and the JSON schema."""
from __future__ import annotations

from paddleseg_ext.config.building import drop_pretrained, make_builder
from paddleseg_ext.config.checks import check_config, require_valid
from paddleseg_ext.config.loading import Config, configs_folder, find_config, load_config, shipped_configs
from paddleseg_ext.config.schema import json_schema
from paddleseg_ext.config.yaml_tree import Problem

__all__ = ['Config', 'Problem', 'check_config', 'configs_folder', 'drop_pretrained', 'find_config', 'json_schema',
           'load_config', 'make_builder', 'require_valid', 'shipped_configs']
