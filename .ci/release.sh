#!/usr/bin/env bash
# Builds what is published: one static binary for x86-64 Linux, its archive, and their sums, in
# target/dist.
#
#   .ci/release.sh                        build, check, pack, sign
#   .ci/release.sh --verify-reproducible  build twice more, in other places, and compare every byte
#
# SANDCLOCK_SIGNING_KEY=FILE: an SSH key (or the .pub of one that an agent has) to sign the sums with.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

readonly TARGET=x86_64-unknown-linux-musl
readonly PROFILE=release-static
# 28 696 104 measured, and a tenth more. What grows past it should do so on purpose.
readonly SIZE_BUDGET_BYTES=31565714
readonly SIGNED_AS=sandclock-release
# Whoever checks a signature must know this key's holder by some name.
readonly SIGNER=release@sandclock

root=$(cd "$(dirname "$0")/.." && pwd -P)
readonly root

step() { printf '\n== %s\n' "$*"; }
die() { printf 'release: %s\n' "$*" >&2; exit 1; }

prepare() {
    if command -v apt-get >/dev/null && ! command -v musl-gcc >/dev/null; then
        step "a C compiler for musl"
        apt-get update -qq && apt-get install -y -qq musl-tools binutils >/dev/null
    fi
    command -v musl-gcc >/dev/null || die "musl-gcc is missing (Debian: musl-tools)"
    (cd "$root" && { rustup target list --installed | grep -qx "$TARGET" || rustup target add "$TARGET"; })
}

# When the source was last changed, for all that has a date. Given, where there is no git.
epoch() {
    printf '%s' "${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}"
}

# build SOURCE TARGET_DIR: no path of this machine gets into the binary, or into what decides its bytes.
build() {
    local source=$1 target_dir=$2 cargo_home=${CARGO_HOME:-$HOME/.cargo} sysroot commit from to
    mkdir -p "$target_dir"
    source=$(cd "$source" && pwd -P) target_dir=$(cd "$target_dir" && pwd -P) cargo_home=$(cd "$cargo_home" && pwd -P)
    sysroot=$(cd "$source" && rustc --print sysroot)
    commit=$(cd "$source" && rustc -vV | sed -n 's/^commit-hash: //p')
    # Of several that match, the last counts: rustc's and gcc's rule.
    local -a map=(
        "$cargo_home" /cargo
        # As the standard library's own paths are where its source is not installed.
        "$sysroot" "/rustc/$commit"
        "$sysroot/lib/rustlib/src/rust" "/rustc/$commit"
        "$source" /sandclock
        "$target_dir" /target
    )
    local rust="" c=""
    for ((i = 0; i < ${#map[@]}; i += 2)); do
        from=${map[i]} to=${map[i + 1]}
        [[ $from != *[[:space:]]* ]] || die "a path with spaces: $from"
        rust+=${rust:+$'\x1f'}--remap-path-prefix=$from=$to
        c+="${c:+ }-ffile-prefix-map=$from=$to"
    done
    (
        cd "$source"
        unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS RUSTC_WRAPPER CFLAGS
        export CARGO_ENCODED_RUSTFLAGS=$rust CARGO_INCREMENTAL=0
        export CC_x86_64_unknown_linux_musl=musl-gcc CFLAGS_x86_64_unknown_linux_musl=$c
        SOURCE_DATE_EPOCH=$(epoch)
        export SOURCE_DATE_EPOCH
        cargo build --locked --profile "$PROFILE" --target "$TARGET" --target-dir "$target_dir" --bin sandclock
    )
    binary=$target_dir/$TARGET/$PROFILE/sandclock
    leaks=("$cargo_home/" "$sysroot/" "$source/" "$target_dir/")
}

# check BINARY
check() {
    local size text leak
    step "what is built"
    if command -v file >/dev/null; then file -b "$1"; fi
    text=$(readelf -lW "$1")
    ! grep -qw INTERP <<<"$text" || die "it is not static: it asks for a loader"
    text=$(readelf -dW "$1")
    ! grep -qw NEEDED <<<"$text" || die "it is not static: it needs libraries"
    grep -qw BIND_NOW <<<"$text" || die "its tables of addresses stay writable (no BIND_NOW)"
    text=$(readelf -hW "$1")
    grep -qw DYN <<<"$text" || die "it is not position-independent"
    for leak in "${leaks[@]}"; do
        ! grep -qaF -e "$leak" "$1" || die "a path of this machine is inside: $leak"
    done
    # Without an environment, as in an empty container.
    env -i "$1" --version
    size=$(stat -c %s "$1")
    printf '%s bytes of %s\n' "$size" "$SIZE_BUDGET_BYTES"
    ((size <= SIZE_BUDGET_BYTES)) || die "it is larger than its budget (SIZE_BUDGET_BYTES)"
}

# Licences of all that is linked in, which ask to come along.
third_party() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} name version licence dir file sum seen=" "
    printf 'What is linked into sandclock beside its own code, and on what terms.\n'
    printf '\n-- musl 1.2, MIT\nCopyright © 2005-2020 Rich Felker, et al. https://git.musl-libc.org/cgit/musl/tree/COPYRIGHT\n'
    printf '\n-- the Rust standard library, MIT OR Apache-2.0\n'
    printf 'Copyright The Rust Project Contributors. https://github.com/rust-lang/rust/blob/main/COPYRIGHT\n'
    (cd "$1" && cargo tree --locked --quiet --edges normal --target "$TARGET" --prefix none --format '{p} {l}') |
        sed 's/ (proc-macro)//; s/ (\*)$//' | sort -u | while read -r name version licence; do
        [[ $name != sandclock ]] || continue
        printf -- '\n-- %s %s, %s\n' "$name" "${version#v}" "$licence"
        for dir in "$cargo_home"/registry/src/*/"$name-${version#v}"; do
            for file in "$dir"/{LICEN[CS]E,COPYING,NOTICE,COPYRIGHT}*; do
                [[ -f $file ]] || continue
                sum=$(sha256sum <"$file")
                if [[ $seen == *" ${sum%% *}="* ]]; then
                    sum=${seen#*" ${sum%% *}="}
                    printf '%s: as that of %s\n' "${file##*/}" "${sum%% *}"
                else
                    seen+="${sum%% *}=$name-${version#v}/${file##*/} "
                    printf '%s:\n\n' "${file##*/}"
                    tr -d '\r' <"$file"
                    printf '\n'
                fi
            done
        done
    done
}

# What it takes to get the same bytes again.
build_info() {
    printf 'source %s\n' "$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)"
    printf 'SOURCE_DATE_EPOCH %s\n' "$(epoch)"
    printf 'profile %s, target %s\n' "$PROFILE" "$TARGET"
    (cd "$root" && rustc -vV | sed -n '1p; s/^commit-hash/rustc commit/p; /^LLVM/p')
    (cd "$root" && cargo --version)
    musl-gcc --version | head -n 1
    ld --version | head -n 1
    dpkg-query -W -f '${Package} ${Version}\n' musl-dev 2>/dev/null || true
}

# pack SOURCE BINARY DIST: the archive, the same from the same.
pack() {
    local source=$1 binary=$2 dist=$3 version name stage
    version=$(env -i "$binary" --version | sed -n '1s/^sandclock //p')
    name=sandclock-$version-$TARGET
    rm -rf "$dist" && mkdir -p "$dist/$name"
    stage=$dist/$name
    install -m 755 "$binary" "$stage/sandclock"
    install -m 644 "$source"/{LICENSE-APACHE,LICENSE-MIT,README.md,CHANGELOG.md} "$stage"
    install -D -m 644 -t "$stage/docs" "$source"/docs/*.md
    install -D -m 644 -t "$stage/systemd" "$source"/docs/operating/sandclock.{service,socket}
    third_party "$source" >"$stage/THIRD-PARTY.txt"
    build_info >"$stage/BUILD-INFO"
    tar -C "$dist" --format=ustar --sort=name --mtime="@$(epoch)" --owner=0 --group=0 --numeric-owner \
        --mode=u+rw,go=rX -cf - "$name" | gzip -9 -n >"$dist/$name.tar.gz"
    mv "$stage/sandclock" "$dist/sandclock"
    rm -rf "$stage"
    (cd "$dist" && sha256sum sandclock "$name.tar.gz" >SHA256SUMS)
}

sign() {
    local dist=$1 key=${SANDCLOCK_SIGNING_KEY:-} public kind blob signers
    step "signature"
    if [[ -z $key ]]; then
        echo "NOT SIGNED: SANDCLOCK_SIGNING_KEY names no key. Whoever gets these files has the sums alone,"
        echo "which say that nothing broke on the way and not who made them."
        return
    fi
    [[ -r $key ]] || die "cannot read the key $key"
    rm -f "$dist/SHA256SUMS.sig"
    ssh-keygen -q -Y sign -f "$key" -n "$SIGNED_AS" "$dist/SHA256SUMS"
    if [[ $key == *.pub ]]; then public=$(<"$key"); else public=$(ssh-keygen -y -f "$key"); fi
    read -r kind blob _ <<<"$public"
    signers=$(printf '%s namespaces="%s" %s %s' "$SIGNER" "$SIGNED_AS" "$kind" "$blob")
    ssh-keygen -Y verify -f <(printf '%s\n' "$signers") -I "$SIGNER" -n "$SIGNED_AS" \
        -s "$dist/SHA256SUMS.sig" <"$dist/SHA256SUMS"
    cat <<EOF

To check it, with the signer's key from somewhere else than these files:

  ssh-keygen -Y verify -f allowed_signers -I $SIGNER -n $SIGNED_AS -s SHA256SUMS.sig < SHA256SUMS \\
      && sha256sum --check --ignore-missing SHA256SUMS

where allowed_signers is the line

  $signers
EOF
}

# copy DIR: the source as it is here, what is not committed too, and nothing that git ignores.
copy() {
    mkdir -p "$1"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) | tar -C "$1" -xf -
}

# In directories of other names and lengths; the second with another home of cargo as well.
verify_reproducible() {
    local work one two home=${CARGO_HOME:-$HOME/.cargo}
    work=$(mktemp -d "${TMPDIR:-/tmp}/sandclock-twice.XXXXXX")
    SOURCE_DATE_EPOCH=$(epoch)
    export SOURCE_DATE_EPOCH
    one=$work/a two=$work/another/place
    copy "$one"
    copy "$two"
    step "first build, in $one"
    build "$one" "$one/target"
    check "$binary"
    pack "$one" "$binary" "$one/dist"
    step "second build, in $two"
    mkdir -p "$work/cargo-home/registry"
    cp -a "$home"/registry/{cache,index} "$work/cargo-home/registry"
    [[ ! -f $home/config.toml ]] || cp "$home/config.toml" "$work/cargo-home"
    export CARGO_HOME=$work/cargo-home
    build "$two" "$work/target-of-another-name"
    check "$binary"
    pack "$two" "$binary" "$two/dist"
    step "comparison"
    sha256sum "$one"/dist/* "$two"/dist/*
    diff -r "$one/dist" "$two/dist" || die "the two builds differ; they are kept in $work"
    rm -rf "$work"
    echo "the same, byte by byte"
}

prepare
case "${1:-}" in
"")
    step "build"
    git -C "$root" diff --quiet HEAD 2>/dev/null || echo "note: this tree has changes that are not committed"
    build "$root" "${CARGO_TARGET_DIR:-$root/target}"
    check "$binary"
    step "archive"
    dist=${binary%/"$TARGET"/*}/dist
    pack "$root" "$binary" "$dist"
    (cd "$dist" && ls -l && cat SHA256SUMS)
    sign "$dist"
    ;;
--verify-reproducible) verify_reproducible ;;
*) die "usage: .ci/release.sh [--verify-reproducible]" ;;
esac
