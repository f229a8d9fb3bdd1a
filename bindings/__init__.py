"""How a kernel is launched: prepared weights, work spaces and launch values. One module per device."""
