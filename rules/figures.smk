# placeholder until the figures land
def figure_names():
    return []
