# The image of mpijob.yaml, from that of docs/howto/deploy/Dockerfile, in the folder of train.py:
#   docker build -f .../mpijob.Dockerfile -t scalecom-mpijob .
# hadolint ignore=DL3007
FROM scalecom:latest
USER 0
# The operator mounts a key into ~/.ssh, which root owns and others read. It is the server's, too, since that is no root.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends openssh-server \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /run/sshd \
    && printf '%s\n' 'Port 2222' 'StrictHostKeyChecking no' 'UserKnownHostsFile /dev/null' \
         > /etc/ssh/ssh_config.d/mpijob.conf \
    && printf '%s\n' 'Port 2222' 'HostKey /home/trainer/.ssh/id_rsa' 'PidFile none' 'StrictModes no' \
         > /etc/ssh/mpijob.conf
USER 1000
COPY train.py /home/trainer/
