#!/bin/bash
# Runs what the host of this virtual machine asks for on the second serial line: a number and a script in base64, a line each.
# The answer is that number, the exit status, and what the script printed.
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
mount -o ro /dev/vdb /mnt
cd /root
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
echo "ready 0 " >&3
while read -r number text <&3; do
    base64 -d <<<"$text" >/run/agent.sh
    # What it leaves running keeps its own output, not the line.
    bash /run/agent.sh >/run/agent.out 2>&1 </dev/null 3>&-
    echo "$number $? $(base64 -w0 /run/agent.out)" >&3
done
