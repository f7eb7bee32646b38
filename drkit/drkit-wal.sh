#!/bin/sh
# drkit-wal, as it is installed: starts drkit/walclient.py by the Python beside this file, without `site`.
#
# PostgreSQL starts it for every segment and waits. This takes 8 ms of processor time; a script as installers write them
# takes 14, as it looks through site-packages first, and with older ones imports `re`. -I: neither the data folder nor
# PYTHONPATH is a place to import from. Where the package is not beside Python it is left to Python to find it.
#
# No exit status of its own is 1 to 125: `get` would be taken to have proven something.
case $0 in
*/*) self=$0 ;;
*) self=./$0 ;;
esac
while [ -h "$self" ]; do
    to=$(readlink -- "$self") || exit 126
    case $to in
    /*) self=$to ;;
    *) self=${self%/*}/$to ;;
    esac
done
here=${self%/*}
python=$here/python3
[ -x "$python" ] || python=python3 # installed for the system's Python, or a user's own
start='import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[:2]; from drkit.walclient import main; sys.exit(main())'
for packages in "$here"/../lib/python3.*/site-packages; do
    if [ -e "$packages/_editable_impl_drkit.pth" ]; then
        read -r packages <"$packages/_editable_impl_drkit.pth" || : # its last line has no end
    fi
    if [ -e "$packages/drkit/walclient.py" ]; then
        exec "$python" -I -S -c "$start" "$packages" drkit-wal "$@" # as ps shows it: drkit-wal push ...
    fi
done
exec "$python" -P -m drkit.walclient "$@"
