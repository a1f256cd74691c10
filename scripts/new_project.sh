#!/usr/bin/env bash
# Starts a paper's project: a folder with an estimator, a posterior and an objective of your own, their tests and the
# script of their experiments. The folder is a copy of scripts/template/ under the name of your estimator.
#
#   bash scripts/new_project.sh NAME [DIR]        takes a second
#
# DIR is the new folder. By default it has the name NAME and stands beside this checkout.
# NAME is the name of the package and of its estimator: a Python name in lower case. The new folder uses this checkout
# and changes nothing in it. The folder works at once: its tests pass, its scripts/reproduce.sh runs, and every command
# of this checkout takes --import=NAME there.
#
# Writes DIR/.
set -euo pipefail

fail() {
  echo "new_project.sh: $1" >&2
  exit 1
}

[[ $# -eq 1 || $# -eq 2 ]] || fail "give one name and at most one folder: bash scripts/new_project.sh NAME [DIR]"
name=$1
code=$(cd "$(dirname "$0")/.." && pwd)
template="$code/scripts/template"
[[ $name =~ ^[a-z][a-z0-9_]*$ ]] || fail "'$name' is not a Python name in lower case; choose a name such as my_estimator"
python="$code/.venv/bin/python"
[[ -x $python ]] || python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
  fail "$python is not Python 3.11 or newer; set PYTHON to a newer one"

# Names that the template uses itself, and names of packages that may not be installed yet.
taken=" tests scripts results capacity dataclass entry estimators experiments held integrand jnp models name objective"
taken+=" objectives posterior score_surrogate stateless stop_gradient vae"
taken+=" cv2 jaxlib scipy sklearn tensorflow_datasets yaml $(sed 's/[^a-z_].*//' "$code/requirements.txt" | tr '\n' ' ')"
[[ $taken != *" $name "* && $name != test_* ]] && "$python" -I - "$name" << 'END' ||
import builtins, importlib.util, keyword, sys
name = sys.argv[1]
reserved = {*keyword.kwlist, *dir(builtins), *sys.stdlib_module_names}
sys.exit(name in reserved or importlib.util.find_spec(name) is not None)
END
  fail "'$name' is a word of Python or of the template, or the name of another package; choose another name"
! grep -rq "^    \"$name\": Entry(" "$code/vae/estimators/" ||
  fail "there is an estimator called $name already; choose another name"

folder=${2:-$code/../$name}
[[ ! -e $folder ]] || fail "$folder exists already and is left as it is; choose another DIR"
mkdir -p "$folder" 2> /dev/null || fail "$folder cannot be made; choose another DIR"
folder=$(cd "$folder" && pwd)
back=$(realpath --relative-to="$folder" "$code")
[[ $back != *[\"\$\`\\$'\n']* ]] || {
  rmdir "$folder"
  fail "the path from $folder to this checkout has a character that is special in shells and TOML; choose another DIR"
}

# The template is two folders below the checkout, so its files call the checkout ../.. ; here that path is replaced.
code_pattern=$(printf '%s' "$back" | sed 's/[&|]/\\&/g')
cd "$template"
find . -type f -not -path '*/__pycache__/*' -not -path './results/*' -not -path '*/.*_cache/*' | while IFS= read -r file; do
  target="$folder/${file//my_estimator/$name}"
  mkdir -p "$(dirname "$target")"
  sed -e "s/my_estimator/$name/g" -e "s|\.\./\.\.|$code_pattern|g" "$file" > "$target"
done

echo "$folder is ready. Go there and start with: bash scripts/reproduce.sh --quick; \"$back/.venv/bin/python\" -m pytest"
echo "Reports say the commit of $name if the folder is a repository: git init && git add . && git commit -m 'New project'"
