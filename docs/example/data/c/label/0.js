saesteer.piece("c/label/0","\n\nsea\n\nfrench\n(function words)\nfrench\nnumbers");
