#!/usr/bin/env python3
"""What the pages say that the programs print and accept, held to the programs.

Usage: printed_test.py FOLDER, which holds stage1_train, stage1_eval and tessera.
"""

import functools
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")])
PROGRAMS = Path()

NUMBER = re.compile(r"\d[\d,]*")
PHASE_LINE = re.compile(r"Phase \d: LoRA adapters \w+ \| Trainable params: [\d,]+")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?<![\w/])(?:build/cpu-release/bin/)?(stage1_train|stage1_eval|tessera)((?:[ \t]+[^#\n]*)?)")
SCRIPT = re.compile(r"(?<![\w/])((?:scripts|bench)/[\w/]+\.(?:sh|py))([^#\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def printed(program, *arguments):
    done = subprocess.run([PROGRAMS / program, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


@functools.cache
def dry_run(name, *overrides):
    """({part: (parameters, trained in phase 1, trained in the last phase)}, its phase lines)."""
    arguments = ["--config", f"configs/{name}.yaml", "--dry-run", "--set", "vision.weights=random"]
    for override in overrides:
        arguments += ["--set", override]
    text = printed("stage1_train", *arguments)
    tables = [[line.split() for line in table.splitlines()]
              for table in re.findall(r"^part +parameters +trainable\n((?:\w+ +[\d,]+ +[\d,]+\n)+)", text, re.MULTILINE)]
    rows = {part: (parameters, first, last)
            for (part, parameters, first), (_, _, last) in zip(tables[0], tables[-1])}
    totals = re.findall(r"^trainable params: ([\d,]+) \|\| all params: ([\d,]+)", text, re.MULTILINE)
    rows["together"] = (totals[0][1], totals[0][0], totals[-1][0])
    return rows, PHASE_LINE.findall(text)


def table_below(text, head):
    """The cells of the rows of a page's table whose head begins so."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(head)) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def number_of(cell):
    match = NUMBER.search(cell)
    return match.group() if match else "0"


@functools.cache
def help_of(program, *words):
    return printed(program, *words, "--help")


def commands_in(help_text):
    return set(re.findall(r"^  ([a-z-]+)  +\S", help_text, re.MULTILINE))


class Printed(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}

    def test_readmes_table_is_what_the_dry_run_prints(self):
        said = {cells[0].strip("`"): tuple(map(number_of, cells[2:]))
                for cells in table_below(self.texts["README.md"], "| part | what | parameters |")}
        self.assertEqual(dry_run("stage1")[0], said)

    def test_the_models_table_is_what_the_dry_run_prints(self):
        rows = table_below(self.texts["model.md"], "| part | stage1 | quickstart | flickr8k-small |")
        said = {cells[0].split(",")[0]: [number_of(cell) for cell in cells[1:]] for cells in rows}
        runs = [dry_run(name)[0] for name in ("stage1", "quickstart", "flickr8k-small")]
        expected = {part: [run.get(part, ("0",))[0] for run in runs] for part in runs[0] if part != "together"}
        together = [run["together"] for run in runs]
        expected["all"] = [counts[0] for counts in together]
        expected["trained in phase 1"] = [counts[1] for counts in together]
        expected["trained in phase 2"] = [counts[2] for counts in together[:2]] + ["0"]  # one phase has no second
        self.assertEqual(expected, said)

    def test_the_models_sums_are_those_of_its_table(self):
        parts = dry_run("stage1")[0]
        text = self.texts["model.md"]

        def numbers(pattern):
            return [int(number.replace(",", "")) for number in re.search(pattern, text).groups()]

        count = r"([\d,]+\d)"
        heads = numbers(rf"the heads are ITC {count}, MaxSim {count} and ITM {count};")
        memory = numbers(rf"the pair code, {count} \(of which {count} are")
        prior, = numbers(rf"prior mean with log-variance, {count}\.")
        *level, projection = numbers(rf"costs {count} for the plain image block, {count} for its cross-attention and "
                                     rf"{count} for the text's; the memory's projection {count}\.")
        whole = {part: int(counts[0].replace(",", "")) for part, counts in parts.items()}
        self.assertEqual(whole["heads"], sum(heads))
        self.assertEqual(whole["memory"], memory[0] + prior)
        self.assertEqual(int(parts["memory"][1].replace(",", "")), whole["memory"] - memory[1])
        self.assertEqual(whole["fusion"] + whole["gates"], 6 * sum(level) + projection)

    def test_phase_lines_are_those_of_the_configurations(self):
        quickstart = dry_run("quickstart")[1]
        self.assertEqual(2, len(quickstart))
        for page in ("README.md", "lora-architecture.md"):
            self.assertEqual(quickstart, PHASE_LINE.findall(self.texts[page]), page)
        results = self.texts["results.md"]
        self.assertEqual(dry_run("flickr8k-lora")[1], PHASE_LINE.findall(results))
        contrast = [f"losses.{loss}.weight=0" for loss in ("maxsim", "itm", "caption", "memory")]
        _, phase1, phase2 = dry_run("flickr8k-lora", *contrast)[0]["together"]
        self.assertIn(f"trains {phase1} and {phase2}", results)

    def test_configurations_draw_negatives_as_the_pages_say(self):
        shares = {path.stem: re.search(r"\buniform_share: (\S+)",
                                       printed("stage1_train", "--print-config", "--config", str(path))).group(1)
                  for path in (REPOSITORY / "configs").glob("*.yaml")}
        self.assertIn("0.5 in all configurations that come with Tessera but the\n     quickstart's",
                      self.texts["training.md"])
        self.assertEqual({name: "0" if name == "quickstart" else "0.5" for name in shares}, shares)

    def test_configurations_that_the_pages_show_are_accepted(self):
        shown = [(page, block) for page, text in self.texts.items()
                 for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
        self.assertTrue(any(page == "README.md" for page, _ in shown))
        with tempfile.TemporaryDirectory() as folder:
            for page, block in shown:
                with self.subTest(page):
                    file = Path(folder, "shown.yaml")
                    file.write_text(block, encoding="utf-8")
                    printed("stage1_train", "--config", str(file), "--dry-run", "--set", "vision.weights=random",
                            "--set", "vision.architecture.hidden_size=48", "--set",
                            "vision.architecture.num_attention_heads=2")

    def test_adapters_have_the_sizes_that_the_pages_name(self):
        adapters = {name: dry_run(name)[0]["lora"][0] for name in ("stage1", "stage1-all-linear")}
        base = next(cells for cells in table_below(self.texts["lora-architecture.md"], "| DINOv2 | query, value |")
                    if cells[0] == "base")
        self.assertEqual([adapters["stage1"], adapters["stage1-all-linear"]], base[1:])

    def command_lines(self):
        """(page, text) of each line in a block of code, its continuations joined, and of each text in backquotes."""
        for page, text in self.texts.items():
            for block in FENCE.findall(text):
                for line in block.replace("\\\n", " ").splitlines():
                    yield page, line
            for quoted in QUOTED.findall(FENCE.sub("", text)):
                yield page, quoted

    def options_of(self, program, words):
        """Problems with a command's words, and the options that it accepts."""
        if program != "tessera":
            return [], help_of(program)
        names = re.match(r"\s*([a-z|-]*)\s*([a-z|]*)", words)
        command, actions = names.group(1), names.group(2)
        if not command or command.startswith("-"):
            return [], help_of(program)
        if command not in commands_in(help_of("tessera")):
            return [f"there is no 'tessera {command}'"], ""
        accepted = help_of("tessera", command)
        known = commands_in(accepted) if command in ("memory", "adapter") else set()
        if not known or not actions:
            return [], accepted
        unknown = [action for action in actions.split("|") if action not in known]
        if unknown:
            return [f"there is no 'tessera {command} {unknown[0]}'"], ""
        return [], "".join(help_of("tessera", command, action) for action in actions.split("|"))

    def test_commands_and_options_that_the_pages_show_are_accepted(self):
        problems = []
        for page, line in self.command_lines():
            for program, words in COMMAND.findall(line):
                found, accepted = self.options_of(program, words)
                problems += [f"{page}: {problem}" for problem in found]
                problems += [f"{page}: '{line.strip()}': {program} has no option {option}"
                             for option in OPTION.findall(words if not found else "")
                             if not re.search(rf"{option}\b(?!-)", accepted)]
            for script, words in SCRIPT.findall(line):
                text = (REPOSITORY / script).read_text(encoding="utf-8") if (REPOSITORY / script).is_file() else ""
                if script == "scripts/bench.sh":
                    text += "".join(path.read_text("utf-8") for path in (REPOSITORY / "bench/peers").glob("*.py"))
                problems += [f"{page}: {script} has no option {option}" for option in OPTION.findall(words)
                             if option not in text]
        self.assertEqual([], problems)

    def test_options_that_the_pages_name_exist_somewhere(self):
        texts = [help_of("stage1_train"), help_of("stage1_eval"), help_of("tessera")]
        for command in commands_in(help_of("tessera")):
            texts.append(help_of("tessera", command))
            if command in ("memory", "adapter"):
                texts += [help_of("tessera", command, action) for action in commands_in(texts[-1])]
        for folder, suffix in (("scripts", "*.sh"), ("scripts", "*.py"), ("bench", "*.py")):
            texts += [path.read_text(encoding="utf-8") for path in (REPOSITORY / folder).rglob(suffix)]
        known = set(OPTION.findall("\n".join(texts)))
        self.assertEqual([], [f"{page}: no program has an option {quoted}" for page, quoted in self.command_lines()
                              if quoted.startswith("--") and OPTION.match(quoted).group() not in known])


if __name__ == "__main__":
    PROGRAMS = Path(sys.argv.pop(1)).resolve()
    unittest.main()
