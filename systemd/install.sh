#!/usr/bin/env bash
# Install Shadowcat as a service, or take it away again.
#
# usage: systemd/install.sh install|uninstall
#
# PREFIX  where the program goes                      [/opt/shadowcat]
# DESTDIR put in front of every path, for packagers   []
# BINARY  the program                                 [target/release/shadowcat]
#
# Configuration, sessions and tapes are left alone by both: an install keeps the files that are there, an uninstall names
# what it leaves. Without DESTDIR, users and directories are made and systemd reads its units anew; nothing is started.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/opt/shadowcat}
root=${DESTDIR:-}
binary=${BINARY:-target/release/shadowcat}
case $prefix in
/*[!a-zA-Z0-9/._-]* | [!/]*) echo "install.sh: PREFIX must be a plain absolute path: $prefix" >&2; exit 2 ;;
esac

link=/usr/local/bin/shadowcat
[ "$prefix" != /usr ] && [ "$prefix" != /usr/local ] || link=

live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# What belongs to the program, file by file: SOURCE TARGET MODE
files() {
    cat <<LIST
$binary $prefix/bin/shadowcat 755
README.md $prefix/share/doc/README.md 644
CHANGELOG.md $prefix/share/doc/CHANGELOG.md 644
docs/OPERATIONS.md $prefix/share/doc/OPERATIONS.md 644
docs/CONFIGURATION.md $prefix/share/doc/CONFIGURATION.md 644
docs/ADMIN.md $prefix/share/doc/ADMIN.md 644
systemd/shadowcat.service /etc/systemd/system/shadowcat.service 644
systemd/shadowcat.socket /etc/systemd/system/shadowcat.socket 644
systemd/shadowcat.sysusers /etc/sysusers.d/shadowcat.conf 644
systemd/shadowcat.tmpfiles /etc/tmpfiles.d/shadowcat.conf 644
LIST
}

# What the program itself prints: ARGUMENTS TARGET
printed() {
    cat <<LIST
man $prefix/share/man/man1/shadowcat.1
completions:bash $prefix/share/bash-completion/completions/shadowcat
completions:zsh $prefix/share/zsh/site-functions/_shadowcat
completions:fish $prefix/share/fish/vendor_completions.d/shadowcat.fish
LIST
}

install_all() {
    [ -x "$binary" ] || { echo "install.sh: no program at $binary; build it first: cargo build --release" >&2; exit 1; }
    files | while read -r source target mode; do
        mkdir -p "$root$(dirname "$target")"
        # Beside it and renamed: a program that runs cannot be written to, and no unit is ever half there.
        case $target in
        *.service) sed "s|/opt/shadowcat|$prefix|g" "$source" >"$root$target.new" ;;
        *) cp "$source" "$root$target.new" ;;
        esac
        chmod "$mode" "$root$target.new"
        mv -f "$root$target.new" "$root$target"
        echo "$root$target"
    done
    printed | while read -r arguments target; do
        mkdir -p "$root$(dirname "$target")"
        # shellcheck disable=SC2086 # words
        "$binary" ${arguments//:/ } >"$root$target"
        echo "$root$target"
    done
    if [ -n "$link" ]; then
        mkdir -p "$root$(dirname "$link")"
        ln -sfn "$prefix/bin/shadowcat" "$root$link"
        echo "$root$link"
    fi
    mkdir -p "$root/etc/shadowcat"
    if [ -e "$root/etc/shadowcat/config.toml" ]; then
        echo "kept $root/etc/shadowcat/config.toml"
    else
        cp systemd/config.toml "$root/etc/shadowcat/config.toml"
        chmod 640 "$root/etc/shadowcat/config.toml"
        echo "$root/etc/shadowcat/config.toml"
    fi
    if live; then
        systemd-sysusers /etc/sysusers.d/shadowcat.conf
        systemd-tmpfiles --create /etc/tmpfiles.d/shadowcat.conf
        systemctl daemon-reload
        echo 'next: edit /etc/shadowcat/config.toml, then systemctl enable --now shadowcat'
    fi
}

uninstall_all() {
    if live; then
        systemctl disable --now shadowcat.socket shadowcat.service || true
    fi
    { files | awk '{ print $2 }'; printed | awk '{ print $2 }'; } | while read -r target; do
        rm -f "$root$target"
        rmdir -p --ignore-fail-on-non-empty "$root$(dirname "$target")" 2>/dev/null || true
    done
    [ -z "$link" ] || [ "$(readlink "$root$link")" != "$prefix/bin/shadowcat" ] || rm -f "$root$link"
    live && systemctl daemon-reload
    for left in /etc/shadowcat /var/lib/shadowcat; do
        [ -e "$root$left" ] && echo "left $root$left"
    done
    return 0
}

case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
