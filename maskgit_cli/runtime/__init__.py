"""What every stage runs on: devices and processes, progress, interrupts, random numbers, downloads."""
