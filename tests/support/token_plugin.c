/* A plugin of MySQL's that has a password sent in clear text and lets another program judge it, as RDS does with tokens.

   The account's own text is that program's command: CREATE USER app IDENTIFIED WITH judged_token AS '/path/to/judge'.
   It reads the user's name and the password, a line each, and says yes by ending with 0. The declarations are those of
   MySQL's plugin interface, as far as it looks at them: no package has its header files for plugins alone.
   https://dev.mysql.com/doc/extending-mysql/en/writing-authentication-plugins-server-side.html */

#include <stdio.h>
#include <string.h>

enum { AUTHENTICATION_PLUGIN = 7, LICENSE_PROPRIETARY = 0, REFUSED = 0, LET_IN = -1 };

struct channel {
    int (*read_packet)(struct channel *, unsigned char **packet);
    int (*write_packet)(struct channel *, const unsigned char *packet, int length);
};

struct login { /* and more, which is not looked at */
    char *user;
    unsigned int user_length;
    const char *account_text;
    unsigned long account_text_length;
};

static int judge(struct channel *channel, struct login *login) {
    unsigned char *password;
    int length = channel->read_packet(channel, &password);
    if (length < 0 || login->account_text_length == 0) return REFUSED;
    FILE *program = popen(login->account_text, "w");
    if (program == NULL) return REFUSED;
    fprintf(program, "%.*s\n%.*s\n", (int)login->user_length, login->user, length, (const char *)password);
    return pclose(program) == 0 ? LET_IN : REFUSED;
}

static int keep_text(char *kept, unsigned int *kept_length, const char *given, unsigned int given_length) {
    if (given_length > *kept_length) return 1;
    memcpy(kept, given, given_length);
    *kept_length = given_length;
    return 0;
}

static int any_text(char *const text, unsigned int length) { return 0; }

static int no_salt(const char *text, unsigned int length, unsigned char *salt, unsigned char *salt_length) {
    *salt_length = 0;
    return 0;
}

static struct {
    int version;
    const char *clients_plugin;
    int (*judge)(struct channel *, struct login *);
    int (*keep_text)(char *, unsigned int *, const char *, unsigned int);
    int (*any_text)(char *const, unsigned int);
    int (*no_salt)(const char *, unsigned int, unsigned char *, unsigned char *);
    const unsigned long flags;
    int (*compare)(const char *, unsigned long, const char *, unsigned long, int *);
} authentication = {0x02ff, "mysql_clear_password", judge, keep_text, any_text, no_salt, 0, NULL};

struct declaration {
    int type;
    void *info;
    const char *name, *author, *description;
    int license;
    int (*start)(void *), (*check_uninstall)(void *), (*end)(void *);
    unsigned int version;
    void *status, *variables, *reserved;
    unsigned long flags;
};

int _mysql_plugin_interface_version_ = 0x0100;
int _mysql_sizeof_struct_st_plugin_ = sizeof(struct declaration);
struct declaration _mysql_plugin_declarations_[] = {
    {AUTHENTICATION_PLUGIN, &authentication, "judged_token", "lambda_pool's tests", "lets a program judge",
     LICENSE_PROPRIETARY, NULL, NULL, NULL, 0x0100, NULL, NULL, NULL, 0},
    {0},
};
