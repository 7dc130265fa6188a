"""What must hold when a process is killed, a disk is full, a file is damaged or a call is wrong."""
