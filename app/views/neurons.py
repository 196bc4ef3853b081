"""*Neurons*: which neurons carry the backdoor, and what do they respond to?

The grid shows every unit of the suspect, coloured by one score; beside it stands the card of the chosen unit (its place under
each score, its feature map, what it puts out for clean and triggered images, one attribution). Below, each unit is a point:
its mean output for clean against triggered images. A unit chosen in the grid, in the scatter or by its id in the find
box is chosen in all of them, and the address keeps it. In Defender view nothing that needs the trigger is on the page.
"""
