"""Check that GitHub's workflows run the same commands as `.ci/run`."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / '.github'
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / 'workflows').glob('*.yml'))}
FORMS = [GITHUB / 'ISSUE_TEMPLATE' / f'{name}.yml' for name in ('bug', 'feature')]

# Which distribution a tool is of.
TOOLS = {'pytest': 'pytest', 'ruff': 'ruff', 'mypy': 'mypy', 'sphinx-build': 'sphinx'}


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[name].read_text())['jobs']
    return found


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in jobs(name).values():
        yield from job['steps']


def commands() -> Iterator[str]:
    for name in WORKFLOWS:
        for step in steps(name):
            yield from step.get('run', '').splitlines()


@pytest.mark.parametrize('name', WORKFLOWS)
def test_workflow_asks_for_little(name: str) -> None:
    text = WORKFLOWS[name].read_text()
    content = yaml.safe_load(text)
    assert content['name'] == name
    # YAML 1.1 reads the key `on` as true.
    assert content[True]
    assert content['permissions'] == {'contents': 'read'}
    assert 'secrets' not in text
    assert all(job['timeout-minutes'] <= 60 for job in content['jobs'].values())
    used = [step['uses'] for step in steps(name) if 'uses' in step]
    assert used
    assert all(re.fullmatch(r'[\w-]+/[\w-]+@(release/)?v\d+', u) for u in used), used


@pytest.mark.parametrize('command', sorted(set(commands())))
def test_command_exists(command: str, project: dict[str, Any]) -> None:
    words = shlex.split(command)
    extras = project['optional-dependencies']
    if words[:2] == ['uv', 'run']:
        tool = next(word for word in words[2:] if not word.startswith('-'))
        listed = [re.split(r'\W', r)[0] for names in extras.values() for r in names]
        assert TOOLS[tool] in listed
    elif words[0] == 'uv':
        assert words[1] in {'build', 'pip', 'sync', 'venv'}
        for option, value in pairwise(words):
            assert option != '--extra' or value in extras
            assert option != '--requirements' or (ROOT / value).exists()
    elif words[0] == 'bash':
        assert (ROOT / words[1]).exists()
    else:
        assert words == ['test', '$GITHUB_REF_NAME', '=', 'v$(uv version --short)']


@pytest.mark.parametrize('tool', ['ruff', 'mypy', 'sphinx-build'])
def test_checks_are_those_of_the_script(tool: str) -> None:
    def lines(commands: Iterator[str]) -> list[str]:
        return [c for c in commands if c.startswith(f'uv run --no-sync {tool}')]

    script = lines(iter((ROOT / '.ci' / 'run').read_text().splitlines()))
    assert script and lines(commands()) == script


def test_suite_runs_on_every_python_that_is_promised(project: dict[str, Any]) -> None:
    prefix = 'Programming Language :: Python :: '
    promised = [c.removeprefix(prefix) for c in project['classifiers'] if prefix in c]
    promised.remove('3 :: Only')
    found = jobs('tests')
    assert found['suite']['strategy']['matrix']['python'] == promised
    assert f'>={found["lowest"]["env"]["UV_PYTHON"]}' == project['requires-python']
    assert found['suite']['steps'][-1]['run'] == 'uv run pytest'
    assert found['lowest']['steps'][-1]['run'] == 'bash .ci/lowest'
    last = (ROOT / '.ci' / 'lowest').read_text().splitlines()[-1]
    assert re.search(r'python -m pytest --lowest "\$@"$', last)


def test_only_the_job_that_publishes_may_prove_who_it_is() -> None:
    found = jobs('release')
    assert found['publish']['permissions'] == {'id-token': 'write'}
    assert found['publish']['needs'] == 'build'
    # It runs no code of the repository, nor of its dependencies.
    assert not any('run' in step for step in found['publish']['steps'])
    assert 'permissions' not in found['build']
    trigger = yaml.safe_load(WORKFLOWS['release'].read_text())[True]
    assert trigger == {'push': {'tags': ['v*']}}


@pytest.mark.parametrize('path', FORMS, ids=lambda path: path.stem)
def test_form_asks_questions(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {'name', 'description', 'body'} <= set(form)
    ids = [field['id'] for field in form['body']]
    assert len(ids) == len(set(ids))
    assert all(field['attributes']['label'] for field in form['body'])
    assert any(f.get('validations', {}).get('required') for f in form['body'])


def test_links_of_issues_are_addresses() -> None:
    config = yaml.safe_load((GITHUB / 'ISSUE_TEMPLATE' / 'config.yml').read_text())
    for link in config['contact_links']:
        assert set(link) == {'name', 'url', 'about'}
        assert link['url'].startswith('https://')
