saesteer.piece("c/density/0","2ARvOXl3BzyjK149JXnMPKnYdztyu3o8mY9DOoUQ1jw=");
