there: rm s; ln -s d t
type: rm s; mkdir s
mode: chmod 0640 h
mtime: touch -d 2020-01-01T00:00:00.000000001 h
target: ln -sfn p s
nlink: ln h i
links: rm h; cp -p d/f h; ln h i
size: printf longer >>h
content: echo two >h
xattrs: setfattr -n user.a -v b h
