"""How long operations take: cases, timer, limits of the device, baselines, verdict."""
