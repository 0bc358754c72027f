/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object that is no backend. */
int mock_nothing(void);

int mock_nothing(void)
{
    return 0;
}
