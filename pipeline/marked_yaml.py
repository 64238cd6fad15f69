"""YAML text in, checked values out: every problem with its line, all of them at once.

Only plain YAML is read (no tags, so nothing can execute); merge keys (`<<`) are allowed, keys that
come twice are not.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches

import yaml

_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"


class Problems:
    """What is wrong in one file.

    Args:
        name: Of the file, for the texts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[tuple[int, str]] = []

    def add(self, node: yaml.Node, text: str) -> None:
        """Note a problem at the node's place."""
        self.found.append((node.start_mark.line + 1, text))

    def texts(self) -> tuple[str, ...]:
        """`name:line: what` in the order of the file."""
        return tuple(f"{self.name}:{line}: {text}" for line, text in sorted(set(self.found)))


class Table:
    """A mapping of a YAML file, read key by key; what is never read for is an unknown key.

    Args:
        node: Any node; anything but a mapping is a problem and reads as empty.
        where: What it describes, for the texts, e.g. `asset 'pump3'`.
        problems: Collects what is wrong.
        known: Keys that may occur.
    """

    def __init__(
        self,
        loader: yaml.SafeLoader,
        node: yaml.Node,
        where: str,
        problems: Problems,
        known: Iterable[str],
    ) -> None:
        self.node, self.where, self.problems = node, where, problems
        self._loader = loader
        self._items: dict[str, yaml.Node] = {}
        known = tuple(known)
        if not isinstance(node, yaml.MappingNode):
            self.problem(f"must be a mapping with {', '.join(known)}", node)
            return
        if any(key.tag == _MERGE for key, _ in node.value):
            try:
                loader.flatten_mapping(node)  # puts the merged keys first, so that own keys win
            except yaml.MarkedYAMLError:
                self.problem("<< must name another mapping", node)
                return
        own: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if self._take(key, value, known) and not self._merged(key):
                before = own.setdefault(key.value, key)
                if before is not key:
                    line = before.start_mark.line + 1
                    self.problem(f"{key.value!r} is given twice, first on line {line}", key)

    def _take(self, key: yaml.Node, value: yaml.Node, known: tuple[str, ...]) -> bool:
        text = key.value if isinstance(key, yaml.ScalarNode) else _shown(key)
        if text not in known:
            near = get_close_matches(text, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(known)}"
            self.problem(f"unknown key {text!r}; {hint}", key)
            return False
        if not (isinstance(value, yaml.ScalarNode) and value.tag == _NULL):
            self._items[text] = value
        return True

    def _merged(self, key: yaml.Node) -> bool:
        """Whether this mapping took the key from elsewhere through `<<`."""
        start, end = self.node.start_mark.index, self.node.end_mark.index
        return not start <= key.start_mark.index < end

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def problem(self, text: str, node: yaml.Node | None = None) -> None:
        """Note a problem of this mapping."""
        self.problems.add(node or self.node, f"{self.where}: {text}")

    def at(self, key: str) -> yaml.Node:
        """The node of a value, or of the mapping where the key is absent: a place for a problem."""
        return self._items.get(key, self.node)

    def text(self, key: str, default: str = "") -> str:
        """A single line of text."""
        node = self._items.get(key)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or "\n" in node.value:
            self.problem(f"{key} must be one line of text, got {_shown(node)}", node)
            return default
        return str(node.value).strip()

    def number(self, key: str, unit: str = "") -> float | None:
        """A finite number above 0; None where absent or wrong."""
        node = self._items.get(key)
        if node is None:
            return None
        try:
            value = float(node.value) if isinstance(node, yaml.ScalarNode) else math.nan
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > 0:
            return value
        self.problem(f"{key} must be a number > 0{unit and ' ' + unit}, got {_shown(node)}", node)
        return None

    def choice(self, key: str, allowed: Iterable[str], default: str = "") -> str:
        """One of a few words."""
        value, allowed = self.text(key, default), tuple(allowed)
        if value not in allowed:
            words = ", ".join(allowed)
            self.problem(f"{key} must be one of {words}, got {value!r}", self.at(key))
            return default
        return value

    def is_table(self, key: str) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self._items.get(key), yaml.MappingNode)

    def table(self, key: str, known: Iterable[str]) -> "Table":
        """A mapping below this one; the key must be there."""
        where = f"{self.where}: {key}"
        return Table(self._loader, self._items[key], where, self.problems, known)

    def tables(self, key: str, what: str, known: Iterable[str]) -> list["Table"]:
        """The mappings of a list; each is called `what 'id'` in the texts."""
        node = self._items.get(key)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.problem(
                f"{key} must be a list (lines that begin with `-`), got {_shown(node)}", node
            )
            return []
        known = tuple(known)
        return [
            Table(self._loader, item, f"{what} {_id_of(item)!r}", self.problems, known)
            for item in node.value
        ]


def read_table(text: str, problems: Problems, what: str, known: Iterable[str]) -> Table | None:
    """The one mapping that a file consists of; None where the text is no YAML."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.found.append((mark.line + 1 if mark else 1, f"not YAML: {error.problem}"))
        return None
    except RecursionError:
        problems.found.append((1, "not YAML: nested too deeply"))
        return None
    except yaml.YAMLError as error:
        problems.found.append((1, f"not YAML: {error}"))
        return None
    if node is None:
        problems.found.append((1, f"{what} is empty"))
        return None
    return Table(loader, node, what, problems, known)


def _id_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "id" and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    return "?"


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
